"""From a results folder to a page or a table. Nothing here imports torch.

``render`` writes one self-contained HTML page, ``table`` returns the comparison or the tables of rank against
precision as text. pandas and matplotlib are imported when they are called, so that importing this package costs
nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from peftbench.report.collect import Results
    from peftbench.report.folders import Part
    from peftbench.report.tables.presented import Choice
    from peftbench.report.tables.table import Table

TOGETHER = ("text", "brief", "md")
"""What ``tables_of`` can return: formats in which tables of several results folders can follow on each other."""
FORMATS = ("text", "brief", "md", "csv", "tex", "ranks", "deployed")
"""What ``table`` can return: the comparison table for a terminal, a short form of it in at most 100 columns, as
Markdown, as raw numbers, as LaTeX with booktabs; or the tables of rank against precision as Markdown."""


def render(results_folder: str | Path, output: str | Path) -> Path:
    """Write the report of a results folder as one HTML file and return its path.

    Args:
        results_folder: A folder that ``peftbench run`` wrote.
        output: The file to write; its parent folders are made.

    Returns:
        The path of the page.

    Raises:
        UserError: If the folder holds no trials, its rows are not comparable, or the page cannot be written.
    """
    return publish(results_folder, output, "html")[0]


def publish(
    results_folder: str | Path,
    output: str | Path,
    format: str,
    choice: Choice | None = None,
    all_notes: bool = False,
) -> tuple[Path, str]:
    """Write the report of a results folder as a file; return its path, and of the page the short table as text.

    Args:
        results_folder: A folder that ``peftbench run`` wrote.
        output: The file to write; its parent folders are made.
        format: ``html`` for the page, or one of ``FORMATS`` for the table.
        choice: Columns and order of the table; of the page, of the short one.
        all_notes: Whether the short table has all notes in place of three.

    Raises:
        UserError: If the folder holds no trials, its rows are not comparable, a column is unknown, or the file cannot
            be written.
    """
    from peftbench.report import collect, page
    from peftbench.report.tables import brief

    folder, target = Path(results_folder), Path(output)
    page.refuse_inside(folder, target)
    _check(format, choice, all_notes)
    results = collect.collect(folder)
    short = brief.text(results, choice, all_notes) if format == "html" else ""  # refuses an unknown column
    if format == "html":
        page.write(target, lambda beside: page.make(results, beside))
    else:
        page.save(_text(results, format, choice, all_notes), target)
    return target, short


def publish_folders(
    results_folders: Sequence[Path], output: Path, format: str, choice: Choice | None = None, all_notes: bool = False
) -> tuple[Path, str]:
    """Write one report of several results folders; return its path, and of the page the short tables as text.

    Args:
        results_folders: Folders that ``peftbench run`` wrote, each once.
        output: The file to write; its parent folders are made.
        format: ``html`` for the page, or one of ``TOGETHER``.
        choice: Columns and order of the tables; of the page, of the short ones.
        all_notes: Whether the short tables have all notes in place of three.

    Raises:
        UserError: As ``publish``; and if a folder is given twice, or the format holds one table only.
    """
    from peftbench.report import folders, page, page_of_folders

    for folder in results_folders:
        page.refuse_inside(folder, output)
    parts = folders.read(results_folders)
    if format != "html":
        page.save(_together(parts, format, choice, all_notes), output)
        return output, ""
    short = _together(parts, "brief", choice, all_notes)
    page.write(output, lambda beside: page_of_folders.make(parts, beside))
    return output, short


def tables_of(
    results_folders: Sequence[Path], format: str, choice: Choice | None = None, all_notes: bool = False
) -> str:
    """Return the tables of several results folders, and what may be compared between them.

    Raises:
        UserError: As ``publish_folders``.
    """
    from peftbench.report import folders

    return _together(folders.read(results_folders), format, choice, all_notes)


def _together(parts: Sequence[Part], format: str, choice: Choice | None, all_notes: bool) -> str:
    """Return an answer and a table for each folder under its name, then what may be compared."""
    from peftbench.errors import UserError
    from peftbench.report import answer, folders

    if format not in TOGETHER:
        raise UserError(
            f"--format {format}: holds the table of one results folder, {len(parts)} are given; allowed with several: "
            f"html, {', '.join(TOGETHER)}"
        )
    mark = "## " if format == "md" else ""
    texts = []
    for part in parts:
        answered = "\n".join(answer.guarded_lines(part.results))
        texts.append(f"{mark}{part.name}\n\n{answered}\n\n{_text(part.results, format, choice, all_notes)}")
    between = "\n\n" if format == "md" else "\n"
    return "\n".join([*texts, between.join(folders.comparability(parts))]) + "\n"


def table(
    results_folder: str | Path, format: str = "text", choice: Choice | None = None, all_notes: bool = False
) -> str:
    """Return the comparison table of a results folder; as ``ranks``, its tables of rank against precision.

    Args:
        results_folder: A folder that ``peftbench run`` wrote.
        format: One of ``FORMATS``.
        choice: Columns and order of the rows; None for those of the format.
        all_notes: Whether ``brief`` has all notes in place of three; ``text``, ``md`` and ``tex`` always have.

    Raises:
        UserError: If the format or a column is unknown, the folder holds no trials, or its rows are not comparable.
    """
    from peftbench.errors import UserError, unknown
    from peftbench.report import collect

    if format not in FORMATS:
        raise UserError(unknown("format", format, FORMATS))
    _check(format, choice, all_notes)
    return _text(collect.collect(Path(results_folder)), format, choice, all_notes)


def findings(results_folder: str | Path) -> tuple[str, ...]:
    """Return a sentence for everything that is neither equal in all rows of a results folder nor an axis of its grid.

    Raises:
        UserError: If the folder holds no trials, or its rows are not comparable.
    """
    from peftbench.report import collect
    from peftbench.report.notes import unequal_settings

    return unequal_settings.notes(collect.collect(Path(results_folder), examples=False))


def _check(format: str, choice: Choice | None, all_notes: bool) -> None:
    """Refuse options that a format has no use for."""
    from peftbench.errors import UserError

    if format in ("ranks", "deployed") and choice and (choice.columns or choice.sort):
        raise UserError("--columns and --sort: allowed with any format but ranks and deployed, which are other tables")
    if all_notes and format in ("csv", "ranks", "deployed"):
        raise UserError(f"--notes: allowed with any format that has notes; {format} has none")


def _text(results: Results, format: str, choice: Choice | None = None, all_notes: bool = False) -> str:
    from peftbench.report.guarded import guarded
    from peftbench.report.tables import (
        best_rates,
        brief,
        comparison,
        deployed,
        inference,
        ladder,
        learning_rate_search,
        presented,
        rank_by_precision,
        retention,
        writers,
    )

    if format == "brief":
        return brief.text(results, choice, all_notes)
    if format == "ranks":
        return writers.write_rank_tables_md(rank_by_precision.heading(results), rank_by_precision.rank_tables(results))
    if format == "deployed":
        found = deployed.table(results, every=True)
        return writers.write_csv(found) if found else ""
    choice = choice or presented.Choice()
    whole = presented.presented(comparison.table(results), results, choice)
    if format not in ("text", "md") or choice.columns:  # csv and tex hold one table
        return writers.write(whole, format, wide_heads=bool(choice.columns))
    text = writers.write(whole, format)

    def written(table: Callable[[Results], Table | None]) -> str:
        found = table(results)
        return writers.write(presented.with_names(found, results), format) if found else ""

    tables = {
        "the ladder of memory": ladder.table,
        "retention": retention.table,
        "the learning-rate search": learning_rate_search.table,
        "best learning rates": best_rates.table,
        "inference cost": inference.table,
        "the score after deployment": deployed.table,
    }
    more = (guarded(f"the table of {what}", lambda t=make: written(t), "{}\n".format) for what, make in tables.items())  # type: ignore[misc]
    return "\n".join([text, *(found for found in more if found)])
