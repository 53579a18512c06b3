"""How a step's examples lie in its forward passes: each in a row of its own, or packed into shared rows. No torch."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peftbench.records import Training
    from peftbench.training.batches import Encoded

Row = Sequence["Encoded"]
"""Examples that stand in one row of a batch, one after the other."""
_SPARE = 0.02
"""Share of a packed forward pass that may be padding, for the sake of shorter rows."""


def forward_passes(step: Sequence[Encoded], training: Training) -> list[Sequence[Row]]:
    """Return the rows of each forward pass of a step; a pass has at most ``micro_batch_size`` examples."""
    size = training.micro_batch_size
    chunks = [step[i : i + size] for i in range(0, len(step), size)]
    if training.packing:
        return [_packed(chunk, training.sequence_length) for chunk in chunks]
    return [[[example] for example in chunk] for chunk in chunks]


def tokens(row: Row) -> int:
    """Return how many tokens a row holds without padding."""
    return sum(len(example.ids) for example in row)


def shape(rows: Sequence[Row]) -> tuple[int, int]:
    """Return rows and tokens of a forward pass, (b, t): t is the longest row's."""
    return len(rows), max(map(tokens, rows))


def masked(rows: Sequence[Row]) -> bool:
    """Return whether attention needs a mask: a row is shorter than the longest, or holds several examples."""
    longest = shape(rows)[1]
    return any(len(row) > 1 or tokens(row) < longest for row in rows)


def sizes(rows: Sequence[Row], virtual: int) -> tuple[int, int, int]:
    """Return what a forward pass's memory grows with: its tokens, their pairs, and their pairs under a mask.

    Args:
        rows: of the pass.
        virtual: tokens that the method itself puts before each.
    """
    b, t = shape(rows)
    pairs = b * (t + virtual) ** 2
    return b * (t + virtual), pairs, pairs if masked(rows) else 0


def _packed(examples: Sequence[Encoded], longest: int) -> Sequence[Row]:
    """Share examples out to rows of at most ``longest`` tokens: the most rows that leave hardly any padding.

    Attention's work and its mask grow with the square of a row, so short rows are better while they are full. Where no
    number of rows leaves so little, that of those tried is taken which leaves least; a row for each example is among
    them, so there are never more tokens than without packing. No example is cut or crosses rows.
    """
    ordered = sorted(examples, key=lambda e: len(e.ids), reverse=True)
    best: Sequence[Row] = [[example] for example in examples]
    total, least = tokens(examples), len(ordered[0].ids)
    most = min(len(ordered), int(total / ((1 - _SPARE) * least)))  # more rows, each as long as that, have too much room
    for count in range(most, 0, -1):
        rows = _shared_out(ordered, count)
        b, t = shape(rows)
        if t > longest:
            break
        if b * t < math.prod(shape(best)):
            best = rows
        if b * t - total <= _SPARE * b * t:
            return best
    for count in range(most + 1, len(ordered)):
        if count * least >= math.prod(shape(best)):
            break
        rows = _shared_out(ordered, count)
        if math.prod(shape(rows)) < math.prod(shape(best)) and shape(rows)[1] <= longest:
            best = rows
    return best


def _shared_out(ordered: Sequence[Encoded], count: int) -> list[list[Encoded]]:
    """Return examples, the longest first, in rows of like length: each goes to the row that is shortest so far.

    The longest row is at most a third longer than the shortest possible (Graham 1969, "Bounds on multiprocessing
    timing anomalies").
    """
    rows: list[list[Encoded]] = [[] for _ in range(count)]
    lengths = [(0, row) for row in range(count)]  # a heap
    for example in ordered:
        length, row = lengths[0]
        rows[row].append(example)
        heapq.heapreplace(lengths, (length + len(example.ids), row))
    return rows
