"""From a results folder to a page or a table. Nothing here imports torch.

``render`` writes one self-contained HTML page, ``table`` returns the comparison or the tables of rank against
precision as text. pandas and matplotlib are imported when they are called, so that importing this package costs
nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peftbench.report.collect import Results

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
        UserError: If the folder holds no trials, its rows cannot stand in one table, or the page cannot be written.
    """
    return publish(results_folder, output, "html")[0]


def publish(results_folder: str | Path, output: str | Path, format: str) -> tuple[Path, str]:
    """Write the report of a results folder as a file; return its path, and the table as text of the same reading.

    Args:
        results_folder: A folder that ``peftbench run`` wrote.
        output: The file to write; its parent folders are made.
        format: ``html`` for the page, or one of ``FORMATS`` for the table.

    Raises:
        UserError: If the folder holds no trials, its rows cannot stand in one table, or the file cannot be written.
    """
    from peftbench.report import collect, page
    from peftbench.report.tables import comparison, writers

    folder, target = Path(results_folder), Path(output)
    page.refuse_inside(folder, target)
    results = collect.collect(folder)
    page.save(page.html(results) if format == "html" else _text(results, format), target)
    return target, writers.write(comparison.table(results), "text")


def table(results_folder: str | Path, format: str = "text") -> str:
    """Return the comparison table of a results folder; as ``ranks``, its tables of rank against precision.

    Args:
        results_folder: A folder that ``peftbench run`` wrote.
        format: One of ``FORMATS``.

    Raises:
        UserError: If the format is unknown, the folder holds no trials, or its rows cannot stand in one table.
    """
    from peftbench.errors import UserError, unknown
    from peftbench.report import collect

    if format not in FORMATS:
        raise UserError(unknown("format", format, FORMATS))
    return _text(collect.collect(Path(results_folder)), format)


def findings(results_folder: str | Path) -> tuple[str, ...]:
    """Return sentences about what differs between the rows of a results folder and is no axis.

    Raises:
        UserError: If the folder holds no trials, or its rows cannot stand in one table.
    """
    from peftbench.report import collect
    from peftbench.report.notes import unequal_settings

    return unequal_settings.notes(collect.collect(Path(results_folder), examples=False))


def _text(results: Results, format: str) -> str:
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
    more = (table(results) for table in (retention.table, learning_rate_search.table, inference.table))
    return "\n".join([text, *(writers.write(found, format) for found in more if found)])
