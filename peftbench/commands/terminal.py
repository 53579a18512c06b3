"""Rows and paragraphs of text for a terminal."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Sequence

WIDTH = 110
"""Longest line in characters."""
SENTENCES = 100
"""Longest line of sentences."""
_AMOUNT = r"(?<=\d){}(?=(?:%|[KMGT]iB|[BkMT]|ms|s|min|h)(?!\w))"
"""What stands between a number and its unit, which stay on one line."""


def aligned(rows: Sequence[Sequence[str]], most: int = 46) -> str:
    """Return rows of cells as left-aligned columns; long cells are wrapped, with an indent in all columns but the last.

    Args:
        rows: all of the same length.
        most: widest column but the last, in characters; the table would wrap a wider one again, without an indent.
    """
    from peftbench.report import text_table

    cells = [[*("\n".join(wrapped(cell, most, "  ")) for cell in row[:-1]), row[-1]] for row in rows]
    return "\n".join(text_table.lines(cells, text_table.Layout(width=WIDTH))) + "\n"


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Return a text as lines of at most this many characters if its words allow it; a number stays with its unit.

    Args:
        text: a paragraph.
        width: in characters.
        indent: put before every line but the first.
    """
    joined = re.sub(_AMOUNT.format(" "), "\N{NO-BREAK SPACE}", text)
    lines = textwrap.wrap(joined, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return [re.sub(_AMOUNT.format("\N{NO-BREAK SPACE}"), " ", line) for line in lines] or [""]


def hanging(head: str, text: str, width: int = WIDTH) -> list[str]:
    """Return a paragraph as lines: the head before the first, equal space before the others."""
    first, *others = wrapped(text, width - len(head))
    return [head + first, *(" " * len(head) + line for line in others)]
