"""How much a quantity varies between nights on which nothing changed, and what stands out of that."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

SIGMA_PER_MAD = 1.4826
"""Standard deviation of a normal variable divided by its median absolute deviation (MAD)."""
ENOUGH = 7
"""Fewest nights whose median and MAD say how a quantity varies."""
_FARTHER = 1.5
"""How much farther out than any single night before a newest night must be, to count alone."""
_RECENT = (1, 3, 5, 8, 12)
"""Numbers of newest nights that are compared with those before them."""


@dataclass(frozen=True)
class Departure:
    """The newest nights of a series are not where the nights before them were."""

    place: int
    """Index of the first of these nights."""
    p: float
    """Probability of such a departure if nothing changed, for all numbers of newest nights together."""


def relative_scale(series: Iterable[Sequence[float]]) -> float:
    """Return the standard deviation of a night relative to its level, of the middle one of several series.

    It is estimated from differences of neighbouring nights, in which a step of the level counts once. 0 if no series
    has three nights.
    """
    known = [_own_scale(values) / abs(statistics.median(values)) for values in series if _has_scale(values)]
    return statistics.median(known) if known else 0.0


def departure(values: Sequence[float], pooled: float, farthest: float = 0.0) -> Departure | None:
    """Return whether the newest nights depart from at least seven nights before them; None if there are fewer.

    The distance of the median of the newest 1, 3, 5, 8 or 12 nights from the median of the nights before is divided by
    its standard error, from the MAD of the nights before, and judged by Student's t.

    Args:
        values: one level's values, one per night.
        pooled: the scale of all cells relative to their level. A smaller MAD of a few nights is chance.
        farthest: see ``farthest_night``. A single newest night that is not much farther out says nothing: noise has
            heavy tails, which a normal distribution does not know.
    """
    best: Departure | None = None
    for newest in _RECENT:
        before, after = values[:-newest], values[-newest:]
        if len(before) < ENOUGH:
            break
        centre, moved = statistics.median(before), statistics.median(after)
        scale = max(mad_scale(before), pooled * abs(centre))
        if newest == 1 and abs(moved - centre) <= _FARTHER * farthest * scale:
            p = 1.0
        else:
            p = min(1.0, len(_RECENT) * _two_sided(moved - centre, scale, len(before), newest))
        if best is None or p < best.p:
            best = Departure(_first_of_run(values, centre, moved), p)
    return best


def farthest_night(series: Iterable[Sequence[float]], pooled: float) -> float:
    """Return how far out the farthest single night is that was followed by others, of any cell, in its scale.

    Args:
        series: each cell's nights without the newest one, of its newest level.
        pooled: as for ``departure``.
    """
    found = [0.0]
    for values in series:
        if len(values) >= ENOUGH:
            centre = statistics.median(values)
            scale = max(mad_scale(values), pooled * abs(centre))
            found += [abs(value - centre) / scale for value in values if scale]
    return max(found)


def mad_scale(values: Sequence[float]) -> float:
    """Return the standard deviation that the median absolute deviation stands for."""
    centre = statistics.median(values)
    return SIGMA_PER_MAD * statistics.median(abs(value - centre) for value in values)


def outliers(values: Sequence[float], pooled: float) -> list[int]:
    """Return the places of single nights that stand out between neighbours that agree with each other.

    Args:
        values: a series with its steps.
        pooled: the relative scale of all cells.
    """
    if len(values) < ENOUGH:
        return []
    scale = max(_own_scale(values), pooled * abs(statistics.median(values)))
    found = []
    for place in range(1, len(values) - 1):
        nearest = [*values[max(0, place - 3) : place], *values[place + 1 : place + 4]]
        left, right = statistics.median(nearest[: min(3, place)]), statistics.median(nearest[min(3, place) :])
        distance = min(values[place] - left, values[place] - right, key=abs)
        same_side = (values[place] - left) * (values[place] - right) > 0
        if same_side and abs(distance) > max(6 * scale, 1e-9 * abs(left)) and abs(left - right) < abs(distance) / 2:
            found.append(place)
    return found


def _first_of_run(values: Sequence[float], centre: float, moved: float) -> int:
    """Return the first night of the last run of nights that are nearer to the new level than to the old."""
    place = len(values) - 1
    while place > 1 and abs(values[place - 1] - moved) < abs(values[place - 1] - centre):
        place -= 1
    return place


def _two_sided(difference: float, scale: float, before: int, after: int) -> float:
    if not difference:
        return 1.0
    if not scale:
        return 0.0
    from scipy.special import stdtr  # type: ignore[import-untyped]

    spread = scale * math.sqrt((math.pi / 2 if after > 1 else 1) / after + math.pi / 2 / before)
    return float(2 * stdtr(before - 1, -abs(difference) / spread))


def _has_scale(values: Sequence[float]) -> bool:
    return len(values) > 2 and statistics.median(values) != 0


def _own_scale(values: Sequence[float]) -> float:
    steps = [abs(b - a) for a, b in itertools.pairwise(values)]
    return SIGMA_PER_MAD * statistics.median(steps) / math.sqrt(2)
