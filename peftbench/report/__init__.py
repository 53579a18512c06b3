"""From a results folder to a page or a table. Nothing here imports torch.

``render`` writes one self-contained HTML page, ``table`` returns the comparison or the tables of rank against
precision as text. pandas and matplotlib are imported when they are called, so that importing this package costs
nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from peftbench.report.collect import Results
    from peftbench.report.tables.table import Table

FORMATS = ("text", "brief", "md", "csv", "tex", "ranks")
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


def publish(results_folder: str | Path, output: str | Path, format: str) -> tuple[Path, str]:
    """Write the report of a results folder as a file; return its path, and the comparison table as text.

    Args:
        results_folder: A folder that ``peftbench run`` wrote.
        output: The file to write; its parent folders are made.
        format: ``html`` for the page, or one of ``FORMATS`` for the table.

    Raises:
        UserError: If the folder holds no trials, its rows are not comparable, or the file cannot be written.
    """
    from peftbench.report import collect, page
    from peftbench.report.tables import comparison, writers

    folder, target = Path(results_folder), Path(output)
    page.refuse_inside(folder, target)
    results = collect.collect(folder)
    if format == "html":
        page.write(results, target)
    else:
        page.save(_text(results, format), target)
    return target, writers.write(comparison.table(results), "text")


def table(results_folder: str | Path, format: str = "text") -> str:
    """Return the comparison table of a results folder; as ``ranks``, its tables of rank against precision.

    Args:
        results_folder: A folder that ``peftbench run`` wrote.
        format: One of ``FORMATS``.

    Raises:
        UserError: If the format is unknown, the folder holds no trials, or its rows are not comparable.
    """
    from peftbench.errors import UserError, unknown
    from peftbench.report import collect

    if format not in FORMATS:
        raise UserError(unknown("format", format, FORMATS))
    return _text(collect.collect(Path(results_folder)), format)


def findings(results_folder: str | Path) -> tuple[str, ...]:
    """Return a sentence for everything that is neither equal in all rows of a results folder nor an axis of its grid.

    Raises:
        UserError: If the folder holds no trials, or its rows are not comparable.
    """
    from peftbench.report import collect
    from peftbench.report.notes import unequal_settings

    return unequal_settings.notes(collect.collect(Path(results_folder), examples=False))


def _text(results: Results, format: str) -> str:
    from peftbench.report.guarded import guarded
    from peftbench.report.tables import (
        brief,
        comparison,
        inference,
        learning_rate_search,
        rank_by_precision,
        retention,
        writers,
    )

    if format == "brief":
        return brief.text(results)
    if format == "ranks":
        return writers.write_rank_tables_md(rank_by_precision.heading(results), rank_by_precision.rank_tables(results))
    text = writers.write(comparison.table(results), format)
    if format not in ("text", "md"):  # csv and tex hold one table
        return text

    def written(table: Callable[[Results], Table | None]) -> str:
        found = table(results)
        return writers.write(found, format) if found else ""

    tables = {
        "retention": retention.table,
        "the learning-rate search": learning_rate_search.table,
        "inference cost": inference.table,
    }
    more = (guarded(f"the table of {what}", lambda t=make: written(t), "{}\n".format) for what, make in tables.items())  # type: ignore[misc]
    return "\n".join([text, *(found for found in more if found)])
