"""``peftbench report`` and ``peftbench compare``: what results folders show."""

from __future__ import annotations

import argparse
from pathlib import Path

from peftbench.commands import FAILED


def report(arguments: argparse.Namespace) -> int:
    """Make a page or a table of a results folder and return the exit code."""
    from peftbench import report
    from peftbench.commands import progress
    from peftbench.results import store

    folder = Path(arguments.results)
    recorded = store.recorded_grid(folder)
    strict = recorded is not None and recorded.strict
    page = arguments.format == "html"
    if not page and not arguments.output:
        print(report.table(folder, arguments.format), end="")
        return FAILED if strict and progress.differences(folder, strict) else 0
    output = Path(arguments.output) if arguments.output else Path("reports") / f"{folder.resolve().name}.html"
    written, table = report.publish(folder, output, arguments.format)
    print(f"{table}page: {written}" if page else f"table: {written}")
    return FAILED if strict and progress.differences(folder, strict) else 0


def compare(arguments: argparse.Namespace) -> int:
    """Print what changed between two results folders and return the exit code."""
    from peftbench.report.comparison import render
    from peftbench.results import compare as comparison

    found = comparison.compare(Path(arguments.old), Path(arguments.new))
    print(render(found), end="")
    return 0 if found.verdict else FAILED
