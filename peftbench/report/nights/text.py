"""A comparison of two nights as text for a terminal: what changed has a line, everything else is counted."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Sequence

from peftbench.records.wording import printable
from peftbench.report import text_table
from peftbench.report.nights import words
from peftbench.results.watch.comparison import Comparison

WIDTH = 110
"""Sentences are wrapped at this many characters."""


def render(comparison: Comparison) -> str:
    """Return the comparison as text; the last line is the verdict."""
    if comparison.unrelated:
        return words.unrelated(comparison) + "\n"
    rows = [words.row(found, comparison) for found in words.changes(comparison)]
    blocks = [
        f"old: {comparison.old.name}\nnew: {comparison.new.name}",
        _table([words.HEAD, *rows]) if rows else "",
        _unchanged(comparison),
        "\n".join(map(_wrapped, words.together(comparison))),
        _listed("cannot tell:", [each.sentence(len(comparison.cells)) for each in words.cannot_tell(comparison)]),
        _listed("what else changed, the likeliest cause first:", [words.moved(each) for each in comparison.moved]),
        "\n".join(map(_wrapped, words.remarks(comparison))),
        _wrapped(words.heading(comparison)),
    ]
    text = "\n\n".join(block for block in blocks if block) + "\n"
    return "\n".join(map(printable, text.split("\n")))


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows in columns; a verdict and a cell are written once."""
    shown = [rows[0]]
    for before, row in itertools.pairwise(rows):
        same = row[0] == before[0]
        shown.append(("" if same else row[0], "" if same and row[1] == before[1] else row[1], *row[2:]))
    return "\n".join(text_table.lines(shown, text_table.Layout(words.RIGHT)))


def _unchanged(comparison: Comparison) -> str:
    found = comparison.of("unchanged")
    if not comparison.cells:
        return "no cell is in both"
    counts: dict[str, int] = {}
    for each in found:
        counts[each.quantity.title] = counts.get(each.quantity.title, 0) + 1
    total = len(comparison.cells)
    listed = ", ".join(f"{title} ({n})" for title, n in counts.items())
    return _wrapped(
        f"{total} cells are in both; unchanged, with the number of cells: {listed}"
        if found
        else f"{total} cells are in both"
    )


def _listed(title: str, lines: Sequence[str]) -> str:
    return "\n".join([title, *(_wrapped(line, "  ") for line in lines)]) if lines else ""


def _wrapped(text: str, indent: str = "") -> str:
    plain = " ".join(text.split())
    return textwrap.fill(
        plain,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_on_hyphens=False,
        break_long_words=False,
    )
