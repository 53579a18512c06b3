"""Measure peftbench itself: ``make bench``, or ``python tests/benchmarks/run.py [--write] [-k NAME]``.

Prints a table of ratios; with ``--write`` it is put into docs/bench.md with the machine that made it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "bench.md"
FORMS = {"ratio": "{:.3f}", "share": "{:.2%}", "ms": "{:.1f}", "s": "{:.2f}"}
MARKED = re.compile(r"(<!-- bench: [^\n]*-->\n).*?(<!-- /bench -->)", re.DOTALL)


def middle(values: list[Any]) -> float:
    """Return the median; of pairs (bare, ours), the ratio of the medians."""
    if isinstance(values[0], (int, float)):
        return statistics.median(values)
    return statistics.median(ours for _, ours in values) / statistics.median(bare for bare, _ in values)


def interval(values: list[Any]) -> tuple[float, float] | None:
    """Return a 95 % interval of the median, by bootstrap over values or pairs; None for fewer than five."""
    if len(values) < 5:
        return None
    draw = random.Random(0)
    found = sorted(middle(draw.choices(values, k=len(values))) for _ in range(2000))
    return found[50], found[-51]


def table(lines: list[dict[str, Any]]) -> str:
    """Return the lines as a table in Markdown."""
    rows = [("measure", "median", "95 % interval", "n", "goal")]
    for line in lines:
        form, between = FORMS[line["form"]].format, interval(line["values"])
        shown = "–" if between is None else f"{form(between[0])} to {form(between[1])}"
        rows.append((line["name"], form(middle(line["values"])), shown, str(len(line["values"])), line["goal"] or "–"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows_of_text = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    rows_of_text.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(rows_of_text)


def machine() -> str:
    """Return the machine that the table was measured on, as text."""
    from peftbench.measure import environment

    found = environment.describe()
    versions = " ".join(f"{name} {found['packages'][name]}" for name in ("torch", "transformers", "peft"))
    return (
        f"{found['cpu']}, {found['cpus_available']} of {found['cpu_count']} CPUs, Python {found['python']}, "
        f"{versions}; load average at the end {environment.load_average():.1f}; {datetime.now(UTC):%Y-%m-%d}"
    )


def main() -> None:
    """Run the benchmarks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="renew docs/bench.md")
    parser.add_argument("-k", metavar="NAME", help="only benchmarks of that name")
    arguments = parser.parse_args()
    if arguments.write and arguments.k:
        parser.error("--write takes all of them, got -k too")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made.json"
        command = [sys.executable, "-m", "pytest", *sorted(map(str, Path(__file__).parent.glob("bench_*.py")))]
        command += ["-o", "python_functions=bench_*", "--disable-warnings"]
        command += [f"--benchmark-json={made}", "--benchmark-quiet"]
        command += ["-k", arguments.k] if arguments.k else []
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        # one thread: the same for both sides of a ratio, and least disturbed by neighbours
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment)
        if done.returncode:
            sys.exit(done.returncode)
        benchmarks = json.loads(made.read_text())["benchmarks"]
    shown = f"{table([line for one in benchmarks for line in one['extra_info']['lines']])}\n\nMachine: {machine()}."
    print(f"\n{shown}")
    if arguments.write:
        text, count = MARKED.subn(lambda found: f"{found[1]}{shown}\n{found[2]}", DOCUMENT.read_text())
        if count != 1:
            raise ValueError(f"{DOCUMENT.name}: {count} places are marked 'bench', expected 1")
        DOCUMENT.write_text(text)


if __name__ == "__main__":
    main()
