"""Find the largest batch or longest sequence whose predicted peak memory is within a budget. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from peftbench.records import Trial

AXES = ("batch_size", "sequence_length")
"""The settings that can be fitted to a budget."""
LARGEST = 2**20


def with_size(trial: Trial, axis: str, size: int) -> Trial:
    """Return a trial with another batch (in one forward pass) or sequence length."""
    assert trial.training is not None
    changes: dict[str, Any] = {"batch_size": size, "micro_batch_size": size} if axis == "batch_size" else {axis: size}
    return replace(trial, training=replace(trial.training, **changes))


def largest_size(peak: Callable[[int], int], budget: int, least: int, limit: int = LARGEST) -> int | None:
    """Return the largest size whose peak is within the budget; None if not even the smallest is.

    Peaks are nearly linear in the size, so the search alternates between interpolation and bisection. This needs few
    evaluations even if they are not linear.

    Args:
        peak: peak in bytes at a size; must not decrease with it.
        budget: in bytes.
        least: smallest size to try.
        limit: largest size to try.
    """
    known: dict[int, int] = {}

    def fits(size: int) -> bool:
        known[size] = peak(size)
        return known[size] <= budget

    if not fits(least):
        return None
    low, high = least, min(least + 1, limit)
    while low < limit and fits(high):  # extrapolate to just beyond the budget
        slope = (known[high] - known[low]) / (high - low)
        low = high
        high = min(limit, max(2 * low, low + 1 + int((budget - known[low]) / slope) if slope else limit))
    line = True
    while high - low > 1 and low < limit:
        share = (budget - known[low]) / (known[high] - known[low]) if line else 0.5
        guess = min(high - 1, max(low + 1, low + int((high - low) * share)))
        low, high = (guess, high) if fits(guess) else (low, guess)
        if line and low == guess and high - low > 1:  # if peaks are linear, the next size does not fit
            low, high = (low + 1, high) if fits(low + 1) else (low, low + 1)
        line = not line
    return low
