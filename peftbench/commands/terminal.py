"""Rows of text as columns that fit a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from itertools import zip_longest

WIDTH = 110
"""Characters of the longest line, where no single word is longer."""
_LEAST = 30
"""Characters that the last column has at least."""


def aligned(rows: Sequence[Sequence[str]], most: int = 60) -> str:
    """Return rows of cells as left-aligned columns; a cell that is too long goes on under itself.

    Args:
        rows: all of the same length.
        most: characters of a column that is not the last; the last one has what is left of the line.
    """
    widths = [min(most, max(len(row[i]) for row in rows)) for i in range(len(rows[0]) - 1)]
    widths.append(max(_LEAST, WIDTH - sum(widths) - 2 * len(widths)))
    lines = []
    for row in rows:
        parts = [wrapped(cell, width, "  ") for cell, width in zip(row[:-1], widths, strict=False)]
        parts.append(wrapped(row[-1], widths[-1]))
        for line in zip_longest(*parts, fillvalue=""):
            lines.append("  ".join(f"{part:{width}}" for part, width in zip(line, widths, strict=True)).rstrip())
    return "\n".join(lines) + "\n"


def wrapped(text: str, width: int, indent: str = "") -> list[str]:
    """Return a text as lines of at most so many characters, if words allow; indented from the second."""
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) or [""]


def hanging(head: str, text: str) -> list[str]:
    """Return lines of which the first begins with a head and the others with as much space."""
    first, *others = wrapped(text, WIDTH - len(head))
    return [head + first, *(" " * len(head) + line for line in others)]
