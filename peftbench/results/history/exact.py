"""Changes of numbers that a repetition gives again: any difference beyond a tolerance is one."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Steps:
    """Where a series goes to another level, and where it is elsewhere for a single night."""

    places: tuple[int, ...]
    """Indices of the first values of new levels."""
    outliers: tuple[int, ...]
    """Indices of single values between equal neighbours. The newest value is never one."""


def steps(values: Sequence[float], tolerance: float = 0.0) -> Steps:
    """Return the steps of a series.

    Args:
        values: one per night.
        tolerance: relative difference from the first value of a level that is none. So slow growth is found as well.
    """
    level = values[0]
    places, single = [], []
    for place, value in enumerate(values):
        if not _apart(value, level, tolerance):
            continue
        if place + 1 < len(values) and not _apart(values[place + 1], level, tolerance):
            single.append(place)
        else:
            places.append(place)
            level = value
    return Steps(tuple(places), tuple(single))


def levels(values: Sequence[float], places: Sequence[int]) -> list[float]:
    """Return the median of each level of a series.

    Args:
        values: one per night.
        places: indices of the first values of new levels.
    """
    ends = [0, *places, len(values)]
    return [statistics.median(values[start:end]) for start, end in itertools.pairwise(ends)]


def _apart(value: float, level: float, tolerance: float) -> bool:
    return abs(value - level) > tolerance * abs(level)
