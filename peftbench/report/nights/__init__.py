"""A comparison of two nights as text for a terminal, as Markdown, as a page, and as a record for programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftbench.errors import UserError, unknown

if TYPE_CHECKING:
    from peftbench.results.watch.comparison import Comparison

FORMATS = ("text", "md", "json", "html")
"""For a terminal; for a step summary or a pull request of GitHub; raw values; a page of one file."""


def written(comparison: Comparison, format: str = "text") -> str:
    """Return a comparison in one of ``FORMATS``, ending with a line feed.

    Raises:
        UserError: if the format is unknown.
    """
    from peftbench.report.nights import markdown, page, record, text

    if format not in FORMATS:
        raise UserError(unknown("format", format, FORMATS))
    writers = {"text": text.render, "md": markdown.render, "json": record.render, "html": page.render}
    return writers[format](comparison)


def heading(comparison: Comparison) -> str:
    """Return the verdict in a line."""
    from peftbench.report.nights import words

    return words.heading(comparison)
