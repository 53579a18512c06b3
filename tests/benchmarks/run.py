"""Measure peftbench itself: ``make bench``, or ``python tests/benchmarks/run.py [--write] [-k NAME]``.

Prints a table of ratios and one of pages; with ``--write`` they are put into docs/bench.md with the machine that made
them. ``-k bench_page --write`` renews the table of pages alone.
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
MARKED = r"(<!-- {0}: [^\n]*-->\n).*?(<!-- /{0} -->)"
PAGES = "bench_page"
"""Name of the benchmark of pages, which have a table of their own."""
PAGE_FORMS = {
    "trials": "{:,}",
    "cells": "{:,}",
    "seconds": "{:.1f}",
    "cpu_seconds": "{:.1f}",
    "memory_mib": "{:,.0f}",
    "page_mib": "{:.2f}",
    "beside_mib": "{:.2f}",
    "open_seconds": "{:.2f}",
    "sort_ms": "{:.0f}",
    "filter_ms": "{:.0f}",
}
"""Columns of that table, and how their numbers are written."""


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
    return markdown(rows)


def page_table(pages: list[dict[str, float]]) -> str:
    """Return what pages took as a table in Markdown."""
    rendered = ("trials", "cells", "seconds", "CPU seconds", "peak memory (MiB)", "page (MiB)", "files beside it (MiB)")
    browsed = ("opens in (s)", "sorts in (ms)", "filters in (ms)")
    forms = PAGE_FORMS.items()
    lines = [tuple(form.format(page[n]) if n in page else "–" for n, form in forms) for page in pages]
    return markdown([(*rendered, *browsed), *lines])


def markdown(rows: list[tuple[str, ...]]) -> str:
    """Return rows, of which the first one has the heads, as a table in Markdown."""
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
    if arguments.write and arguments.k not in (None, PAGES):
        parser.error(f"--write takes all of them, or -k {PAGES}; got -k {arguments.k}")
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
    lines, pages = ([one for each in benchmarks for one in each["extra_info"].get(n, ())] for n in ("lines", "pages"))
    shown = {"bench": table(lines) if lines else "", "bench-pages": page_table(pages) if pages else ""}
    for place, made_table in shown.items():
        if made_table:
            text = f"{made_table}\n\nMachine: {machine()}."
            print(f"\n{text}")
            if arguments.write:
                put(place, text)


def put(place: str, shown: str) -> None:
    """Replace what stands between the markers of a place in the document."""
    marked = re.compile(MARKED.format(place), re.DOTALL)
    text, count = marked.subn(lambda found: f"{found[1]}{shown}\n{found[2]}", DOCUMENT.read_text())
    if count != 1:
        raise ValueError(f"{DOCUMENT.name}: {count} places are marked {place!r}, expected 1")
    DOCUMENT.write_text(text)


if __name__ == "__main__":
    main()
