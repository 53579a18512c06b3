"""Plain text cut into chunks for language modelling. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable

_BLANK = re.compile(r"\n[^\S\n]*\n")
"""A blank line between two paragraphs."""


def chunks(texts: Iterable[str], separator: str | None, longest: int) -> list[str]:
    """Return the chunks of texts in order, stripped of surrounding white space, without empty ones.

    Args:
        texts: the texts of the rows or the file, in order.
        separator: the string between two documents; each document then becomes a chunk of its own. None cuts at blank
            lines instead, and joins neighbouring paragraphs, also of different texts, up to ``longest`` characters.
        longest: largest number of characters in a chunk; longer pieces are cut at white space, or else within a word.
    """
    if separator is not None:
        pieces = [piece for text in texts for piece in text.split(separator)]
        return [chunk for piece in pieces for chunk in _short(piece.strip(), longest)]
    pieces = [piece.strip() for text in texts for piece in _BLANK.split(text)]
    found: list[str] = []
    for short in (short for piece in pieces for short in _short(piece, longest)):
        if found and len(found[-1]) + 2 + len(short) <= longest:
            found[-1] += f"\n\n{short}"
        else:
            found.append(short)
    return found


def _short(piece: str, longest: int) -> Iterable[str]:
    """Yield a piece in parts of at most ``longest`` characters."""
    start = 0
    while len(piece) - start > longest:
        # the last white space in the second half of the part
        space = max(piece.rfind(mark, start + longest // 2, start + longest + 1) for mark in (" ", "\n", "\t"))
        cut = space if space > 0 else start + longest
        yield piece[start:cut].rstrip()
        start = cut
        while start < len(piece) and piece[start].isspace():
            start += 1
    if start < len(piece):
        yield piece[start:]
