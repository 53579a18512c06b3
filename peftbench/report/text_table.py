"""Tables for a terminal, laid out by rich, which is imported only when a table is written."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

_UNLIMITED = 100_000


@dataclass(frozen=True)
class Layout:
    """How columns are laid out."""

    right: Collection[int] = ()
    """Columns that are aligned on the right; the others are on the left."""
    gap: int = 2
    """Spaces between columns."""
    width: int | None = None
    """Longest line in characters; longer cells are wrapped. None for no limit."""


def lines(rows: Sequence[Sequence[str]], layout: Layout) -> list[str]:
    """Return rows of cells as lines of text. A cell may have several lines; control codes and markup have no effect.

    Args:
        rows: all of the same length, at least one.
        layout: alignment and width.
    """
    import io

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, layout.gap, 0, 0))
    for place in range(len(rows[0])):
        table.add_column(
            justify="right" if place in layout.right else "left",
            no_wrap=layout.width is None,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*map(Text, row))
    out = io.StringIO()
    Console(file=out, width=layout.width or _UNLIMITED, color_system=None, force_terminal=False).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def width(text: str) -> int:
    """Return the number of terminal columns that a text takes."""
    from rich.cells import cell_len

    return cell_len(text)
