"""``peftbench report``: pages and tables of results folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from peftbench.commands import FAILED


@dataclass(frozen=True)
class TableOptions:
    """What the table that is printed or written has."""

    columns: str | None = None
    """Names of columns with commas between them; None for those of the format."""
    sort: str | None = None
    """Name of the column that sorts the rows; None for the order of the format."""
    notes: bool = False
    """Whether all notes are under the short table."""


_AS_THEY_ARE = TableOptions()


def report(folder: Path, output: Path | None, format: str, how: TableOptions = _AS_THEY_ARE) -> int:
    """Write the page of a results folder, or print or write its table.

    Args:
        folder: a results folder.
        output: the file to write. None: ``reports/NAME.html`` for the page; a table is printed.
        format: ``html`` for the page, or one of ``report.FORMATS`` for a table.
        how: what the table has.

    Returns:
        The exit code: 1 if the suite asks for a strict audit and rows are not comparable.

    Raises:
        UserError: if a column is unknown, or the folder's rows cannot stand in one table.
    """
    from peftbench import report
    from peftbench.commands import progress
    from peftbench.report.tables.presented import Choice, read_columns
    from peftbench.results import store

    choice = Choice(read_columns(how.columns), how.sort)
    recorded = store.recorded_grid(folder)
    strict = recorded is not None and recorded.strict
    page = format == "html"
    if not page and not output:
        print(report.table(folder, format, choice, how.notes), end="")
        return FAILED if strict and progress.warn_of_differences(folder, strict) else 0
    written, table = report.publish(folder, output or default_page(folder), format, choice, how.notes)
    print(f"{table}page: {written}" if page else f"table: {written}")
    return FAILED if strict and progress.warn_of_differences(folder, strict) else 0


def default_page(folder: Path) -> Path:
    """Return where the page of a results folder is written by default: ``reports/NAME.html``."""
    return Path("reports") / f"{folder.resolve().name}.html"
