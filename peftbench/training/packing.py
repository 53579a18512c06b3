"""How a step's examples are laid out in its forward passes: one per row, or packed into shared rows. No torch."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from peftbench.records import Training
from peftbench.training.encoded import Encoded, Row

_SPARE = 0.02
"""Share of a packed forward pass that may be padding, so that rows can be shorter."""


def forward_passes(step: Sequence[Encoded], training: Training) -> list[Sequence[Row]]:
    """Return the rows of each forward pass of a step; a pass has at most ``micro_batch_size`` examples."""
    size = training.micro_batch_size
    chunks = [step[i : i + size] for i in range(0, len(step), size)]
    if training.packing:
        return [_packed(chunk, training.sequence_length) for chunk in chunks]
    return [[[example] for example in chunk] for chunk in chunks]


def tokens(row: Row) -> int:
    """Return the number of tokens in a row, without padding."""
    return sum(len(example.ids) for example in row)


def shape(rows: Sequence[Row]) -> tuple[int, int]:
    """Return the shape (b, t) of a forward pass: its rows, and the tokens of the longest row."""
    return len(rows), max(map(tokens, rows))


def masked(rows: Sequence[Row]) -> bool:
    """Return whether attention needs a mask: a row is shorter than the longest, or holds several examples."""
    longest = shape(rows)[1]
    return any(len(row) > 1 or tokens(row) < longest for row in rows)


def bearing(rows: Sequence[Row]) -> int:
    """Return the number of tokens in the loss."""
    return sum(end - first for row in rows for example in row for first, end in example.loss_spans)


def sizes(rows: Sequence[Row], virtual: int, logits: str) -> tuple[int, ...]:
    """Return what the memory of a forward pass grows with.

    These are tokens, pairs of tokens, pairs of tokens under a mask and, unless all positions have logits, tokens in the
    loss.

    Args:
        rows: the rows of the pass.
        virtual: virtual tokens that the method puts before each row.
        logits: the setting ``train.logits``.
    """
    b, t = shape(rows)
    pairs = b * (t + virtual) ** 2
    found = b * (t + virtual), pairs, pairs if masked(rows) else 0
    return found if logits == "all" else (*found, bearing(rows))


def _packed(examples: Sequence[Encoded], longest: int) -> Sequence[Row]:
    """Distribute examples over rows of at most ``longest`` tokens: as many rows as leave hardly any padding.

    The work and the mask of attention grow with the square of a row's length, so shorter rows are better if they are
    full. If every number of rows leaves more padding than ``_SPARE``, the one with the least padding is used. One row
    per example is among the candidates, so packing never takes more tokens than no packing. An example is never cut or
    split over rows.
    """
    ordered = sorted(examples, key=lambda e: len(e.ids), reverse=True)
    best: Sequence[Row] = [[example] for example in examples]
    total, least = tokens(examples), len(ordered[0].ids)
    # more rows than this, each at least as long as the longest example, hold too much padding
    most = min(len(ordered), int(total / ((1 - _SPARE) * least)))
    for count in range(most, 0, -1):
        rows = _distributed(ordered, count)
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
        rows = _distributed(ordered, count)
        if math.prod(shape(rows)) < math.prod(shape(best)) and shape(rows)[1] <= longest:
            best = rows
    return best


def _distributed(ordered: Sequence[Encoded], count: int) -> list[list[Encoded]]:
    """Return the examples, given longest first, in rows of similar length: each goes to the shortest row so far.

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
