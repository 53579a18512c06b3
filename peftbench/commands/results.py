"""``peftbench report`` and ``peftbench compare``: pages, tables and comparisons of results folders."""

from __future__ import annotations

from pathlib import Path

from peftbench.commands import FAILED


def report(folder: Path, output: Path | None, format: str) -> int:
    """Write the page of a results folder, or print or write its table.

    Args:
        folder: a results folder.
        output: the file to write. None: ``reports/NAME.html`` for the page; a table is printed.
        format: ``html`` for the page, or one of ``report.FORMATS`` for a table.

    Returns:
        The exit code: 1 if the suite asks for a strict audit and rows are not comparable.
    """
    from peftbench import report
    from peftbench.commands import progress
    from peftbench.results import store

    recorded = store.recorded_grid(folder)
    strict = recorded is not None and recorded.strict
    page = format == "html"
    if not page and not output:
        print(report.table(folder, format), end="")
        return FAILED if strict and progress.warn_of_differences(folder, strict) else 0
    written, table = report.publish(folder, output or default_page(folder), format)
    print(f"{table}page: {written}" if page else f"table: {written}")
    return FAILED if strict and progress.warn_of_differences(folder, strict) else 0


def default_page(folder: Path) -> Path:
    """Return where the page of a results folder is written by default: ``reports/NAME.html``."""
    return Path("reports") / f"{folder.resolve().name}.html"


def compare(old: Path, new: Path) -> int:
    """Print what changed between two results folders and return the exit code."""
    from peftbench.report.comparison import render
    from peftbench.results import compare as comparison

    found = comparison.compare(old, new)
    print(render(found), end="")
    return 0 if found.verdict else FAILED
