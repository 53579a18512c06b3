"""``peftbench report``: pages and tables of results folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
_NAMED = 3
"""Results folders that the name of a page of several names."""


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


def report_several(folders: Sequence[Path], output: Path | None, format: str, how: TableOptions = _AS_THEY_ARE) -> int:
    """Write one page of several results folders, or print or write their tables; see ``report``.

    Returns:
        The exit code: 1 if the suite of any folder asks for a strict audit and its rows are not comparable.

    Raises:
        UserError: if a folder is given twice, or as ``report``.
    """
    from peftbench import report
    from peftbench.report.tables.presented import Choice, read_columns

    choice = Choice(read_columns(how.columns), how.sort)
    page = format == "html"
    if not page and not output:
        print(report.tables_of(folders, format, choice, how.notes), end="")
    else:
        target = output or default_page(*folders)
        written, table = report.publish_folders(folders, target, format, choice, how.notes)
        print(f"{table}page: {written}" if page else f"table: {written}")
    return exit_code(folders)


def exit_code(folders: Sequence[Path]) -> int:
    """Warn of rows that are not comparable in folders whose suite asks for a strict audit; return the exit code."""
    from peftbench.commands import progress
    from peftbench.results import store

    grids = [(folder, store.recorded_grid(folder)) for folder in folders]
    strict = [folder for folder, grid in grids if grid is not None and grid.strict]
    unequal = [progress.warn_of_differences(folder, True) for folder in strict]
    return FAILED if any(unequal) else 0


_NOT_WITH_FIGURES = ("output", "format", "columns", "sort", "notes", "table", "published")
"""Options of the page or of a table."""


def figures(folders: Sequence[Path], target: Path, given: Mapping[str, object]) -> int:
    """Write the figures for print of results folders, and name those that a folder has no data for.

    Args:
        folders: results folders; of several, each has a folder of its own in ``target``.
        target: the folder to write into.
        given: the command's options, of which those of the page and of tables have no use here.

    Raises:
        UserError: if a file cannot be written, if it would stand among the results' own files, or if an option of the
            page or of a table is given too.
    """
    from peftbench.errors import UserError
    from peftbench.report import page
    from peftbench.report.collect import collect
    from peftbench.report.figures import writing
    from peftbench.report.folders import shortest_names

    useless = [f"--{name}" for name in _NOT_WITH_FIGURES if given.get(name) not in (None, False)]
    if useless:
        raise UserError(f"--figures DIR: writes figures only; leave out {', '.join(useless)}")
    if not given.get("figures"):
        raise UserError("--figures DIR: given an empty name; allowed: a folder, which is made if it is missing")
    for folder in folders:
        page.refuse_inside(folder, target)
    names = shortest_names([folder.resolve() for folder in folders])
    for folder, name in zip(folders, names, strict=True):
        place = target / name if len(folders) > 1 else target
        for made in writing.write(collect(folder, examples=True), place):
            for path in made.files:
                print(f"written: {path}")
            if made.reason:
                print(f"not drawn: {made.figure.title} of {folder}: {made.reason}")
    return 0


def default_page(*folders: Path) -> Path:
    """Return where the page of results folders is written by default: ``reports/NAME.html``, ``reports/A+B.html``."""
    from peftbench.report.folders import shortest_names

    paths = list(dict.fromkeys(folder.resolve() for folder in folders))
    names = [name.replace("/", "-").strip("-") for name in shortest_names(paths)]
    more = f"+{len(names) - _NAMED}-more" if len(names) > _NAMED else ""
    return Path("reports") / f"{'+'.join(names[:_NAMED])}{more}.html"
