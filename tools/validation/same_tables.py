"""Show that stored results give the same numbers in every table as an older checkout gave.

    python -m tools.validation.same_tables OLD_CHECKOUT [--results results/reference]

Both checkouts read every results folder below ``--results`` and render its tables as csv, tex and ranks; then they
compare each pair of folders. Of every output the numbers and the exit code are compared, not the words: sentences may
be rewritten. In csv the numbers are compared line by line, elsewhere as a multiset. The exit code is 1 if a number was
lost, added or changed. Takes two to four minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
FORMATS = ("csv", "tex", "ranks")
LEVELS = ("0.05", "95")
"""Significance and confidence levels. They are constants that sentences may state or not, so they are not compared."""
_NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?", re.IGNORECASE)
_RENDER = """
import contextlib, io, json, sys
from peftbench import cli
found = {}
for arguments in json.load(sys.stdin):
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        code = cli.main(arguments)
    found[" ".join(arguments)] = [code, out.getvalue()]
print(json.dumps(found))
"""
Output = tuple[int, str]
"""Exit code and text."""


def folders(place: Path) -> list[Path]:
    """Return the results folders below a place, searches inside them included."""
    return sorted(path.parent for path in place.rglob("trials") if path.is_dir())


def commands(found: Sequence[Path]) -> list[list[str]]:
    """Return the command lines whose output is compared."""
    tables = [["report", str(folder), "--format", kind] for folder in found for kind in FORMATS]
    return tables + [["compare", str(one), str(other)] for one, other in itertools.combinations(found, 2)]


def rendered(checkout: Path, lines: Sequence[Sequence[str]]) -> dict[str, Output]:
    """Return what the code of a checkout prints for each command line."""
    done = subprocess.run(
        [sys.executable, "-c", _RENDER],
        input=json.dumps(lines),
        env={**os.environ, "PYTHONPATH": str(checkout)},
        cwd=checkout,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{checkout} cannot render the tables:\n{done.stderr}")
    return {line: (code, text) for line, (code, text) in json.loads(done.stdout).items()}


def numbers(text: str) -> list[str]:
    """Return the numbers of a text, thousands without separators; not those that are part of a word ("fp32")."""
    return [number.replace(",", "") for number in _NUMBER.findall(text) if number not in LEVELS]


def differences(old: Mapping[str, Output], new: Mapping[str, Output]) -> Iterator[str]:
    """Yield one line for each command whose exit code or numbers differ."""
    for line, (code, before) in old.items():
        now, after = new[line]
        if code != now:
            yield f"{line}: exit code {code} became {now}"
        if "csv" in line:
            rows = list(itertools.zip_longest(before.splitlines(), after.splitlines(), fillvalue=""))
            changed = [place for place, (one, other) in enumerate(rows) if numbers(one) != numbers(other)]
            if changed:
                yield f"{line}: numbers differ in the lines {', '.join(map(str, changed))}"
        lost, added = (
            Counter(numbers(one)) - Counter(numbers(other)) for one, other in ((before, after), (after, before))
        )
        if lost or added:
            yield f"{line}: lost {sorted(lost.elements())}, added {sorted(added.elements())}"


def main() -> int:
    """Compare the tables of two checkouts and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="a checkout of an older version")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "results" / "reference")
    asked = parser.parse_args()
    found = folders(asked.results.resolve())
    if not found:
        sys.exit(f"no results folder below {asked.results}")
    lines = commands(found)
    with ThreadPoolExecutor(2) as pool:
        old, new = pool.map(lambda checkout: rendered(checkout, lines), (asked.old.resolve(), REPOSITORY))
    compared = sum(len(numbers(text)) for _, text in old.values())
    faults = list(differences(old, new))
    for fault in faults:
        print(fault)
    print(f"{len(lines)} outputs of {len(found)} folders, {compared:,} numbers: {len(faults)} outputs differ")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
