"""Give the command line thousands of wrong inputs and check that each has a message and an exit code, and no traceback.

    python -m tools.validation.fuzz --inputs 20000 [--first 0]

Each number is a seed that draws one input: a suite whose values, keys or characters are changed; options; a results
folder with damaged, foreign or missing files; or a data file with odd values or damaged bytes, read by a task in an odd
way. Nothing is trained: suites are planned, results are reported and compared. A fault is an exception that leaves
``peftbench.cli.main`` (``PEFTBENCH_TRACEBACK`` is set, so none is turned into a message), an exit code that is not
documented, exit code 2 without a message, or an input that takes longer than ``SLOW`` seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.validation.fuzz_data import data_input
from tools.validation.fuzz_inputs import option_input, results_input, suite_input

SLOW = 20.0
"""Longest time of one input in seconds of this process, so that other work of the machine does not count."""
CODES = (0, 1, 2)
_STRETCH = 200
"""Inputs between two lines of progress."""


@dataclass
class Tally:
    """Counts by kind of input and exit code, and the faults found."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


KINDS: dict[str, Callable[[Path, random.Random], list[str]]] = {
    "suite": suite_input,
    "options": option_input,
    "results": results_input,
    "data": data_input,
}
"""Kinds of inputs, and what makes one in a folder."""


def fuzz(place: Path, seeds: range) -> Tally:
    """Run the inputs of these seeds inside a folder."""
    from peftbench import cli

    tally, before = Tally(), Path.cwd()
    os.environ["PEFTBENCH_TRACEBACK"] = "1"
    for seed in seeds:
        draw = random.Random(seed)
        kind = draw.choices(list(KINDS), (5, 1, 2, 4))[0]
        work = place / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        rows = [{"thing": f"thing {n}", "colour": ("red", "green")[n % 2]} for n in range(20)]
        (work / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (work / "text.txt").write_text("one text\n\nanother text\n" * 5)
        os.chdir(work)
        try:
            line = KINDS[kind](work, draw)
            _one(cli.main, line, f"seed {seed} ({kind})", kind, tally)
        finally:
            os.chdir(before)
    return tally


def _one(main: Callable[[list[str]], int], line: list[str], where: str, kind: str, tally: Tally) -> None:
    """Run one command and count its exit code."""
    out, error = io.StringIO(), io.StringIO()
    began = time.process_time()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            code: Any = main(line)
    except SystemExit as end:  # argparse
        code = end.code
    except BaseException:
        tally.faults.append(f"{where}: {ascii(line)[:300]}\n{traceback.format_exc()[-3000:]}")
        tally.counts[f"{kind}, exception"] += 1
        return
    took = time.process_time() - began
    tally.counts[f"{kind}, exit code {code}"] += 1
    if code not in CODES or (code == 2 and not error.getvalue().strip()) or took > SLOW:
        tally.faults.append(
            f"{where}: {ascii(line)[:300]}: exit code {code} after {took:.1f} s of CPU time: {error.getvalue()[:200]}"
        )


def main() -> int:
    """Run the inputs and print the counts; return 1 if a fault was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--first", type=int, default=0)
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    tally, last = Tally(), asked.first + asked.inputs
    with tempfile.TemporaryDirectory() as name:
        for first in range(asked.first, last, _STRETCH):
            found = fuzz(Path(name), range(first, min(first + _STRETCH, last)))
            tally.counts += found.counts
            tally.faults += found.faults
            print(
                "\n".join([*found.faults, f"{sum(tally.counts.values()):,} inputs, {len(tally.faults)} faults"]),
                flush=True,
            )
    print(", ".join(f"{count:,} {what}" for what, count in sorted(tally.counts.items())))
    return 1 if tally.faults else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    sys.exit(main())
