"""The most that fits: the largest batch or longest sequence whose predicted peak is within a budget. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from peftbench.records import Trial

AXES = ("batch_size", "sequence_length")
"""What can be made to fit."""
MOST = 2**20


def with_size(trial: Trial, axis: str, size: int) -> Trial:
    """Return a trial with another batch (in one forward pass) or sequence length."""
    assert trial.training is not None
    changes: dict[str, Any] = {"batch_size": size, "micro_batch_size": size} if axis == "batch_size" else {axis: size}
    return replace(trial, training=replace(trial.training, **changes))


def most(peak: Callable[[int], int], budget: int, least: int, limit: int = MOST) -> int | None:
    """Return the largest size whose peak is within the budget; None if not even the least is.

    Peaks are nearly lines, so a line through two known ones tells where to look; halving what is left in turn keeps
    the number of peaks small where they are not.

    Args:
        peak: bytes for a size; never falls.
        budget: bytes.
        least: smallest size that makes sense.
        limit: largest size to try.
    """
    known: dict[int, int] = {}

    def fits(size: int) -> bool:
        known[size] = peak(size)
        return known[size] <= budget

    if not fits(least):
        return None
    low, high = least, min(least + 1, limit)
    while low < limit and fits(high):  # beyond the budget, by the slope so far
        slope = (known[high] - known[low]) / (high - low)
        low = high
        high = min(limit, max(2 * low, low + 1 + int((budget - known[low]) / slope) if slope else limit))
    line = True
    while high - low > 1 and low < limit:
        share = (budget - known[low]) / (known[high] - known[low]) if line else 0.5
        guess = min(high - 1, max(low + 1, low + int((high - low) * share)))
        low, high = (guess, high) if fits(guess) else (low, guess)
        if line and low == guess and high - low > 1:  # on a line, the next size is too much
            low, high = (low + 1, high) if fits(low + 1) else (low, low + 1)
        line = not line
    return low
