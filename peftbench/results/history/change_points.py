"""Change points of one noisy series: steps of its level, told apart from single nights that stand out.

The procedure is that of E-divisive (Matteson and James 2014, arXiv:1306.4933, section 3): find the split that divides
a series best, test it by permutation, and divide both parts again. It differs from the paper in its statistic. The
series is replaced by its ranks, and the statistic of a split after k of n nights is the standardized rank sum

    z(k) = (R(k) - k (n + 1) / 2) / sqrt(k (n - k) (n + 1) / 12),   T = max |z(k)|,  3 <= k <= n - 3

with R(k) the sum of the first k ranks. Reasons:

- A single night that stands out has a rank like any other: it cannot make a step, however large it is.
- The distribution of T under permutation depends on n alone, so it is simulated once per length and serves all series
  of all cells; probabilities are fine enough to be corrected for several hundred series.
- Nightly results shift their level; other changes of a distribution, which the energy statistic would find as well,
  are not what is looked for.

Equal values have ranks in an order drawn at random, from a fixed seed. This keeps the test's level exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHORTEST = 3
"""Fewest nights on each side of a step."""
PERMUTATIONS = 50_000
"""Permutations simulated for each length."""
SEED = 20261129
_TAIL = 1e-3
"""Below this probability the simulated distribution is continued by the normal tail."""
_EVERY_LENGTH = 40
"""Lengths up to which each has a simulation of its own; a longer series takes that of the next longer length."""
_GROWTH = 1.15
_CHUNK = 2_000_000


@dataclass(frozen=True)
class Split:
    """Where a series divides best."""

    place: int
    """Index of the first value of the new level."""
    p: float
    """Probability of such a division, somewhere in a series of this length, if nothing changed."""


def best_split(values: Sequence[float]) -> Split | None:
    """Return where a series divides best; None if it is too short to have two levels."""
    n = len(values)
    if n < 2 * SHORTEST:
        return None
    scores = _statistics(_ranks(np.asarray(values, dtype=float))[None, :])[0]
    return Split(_place(np.asarray(values, dtype=float)), _probability(float(scores.max()), n))


def splits(values: Sequence[float], level: float) -> list[Split]:
    """Return all change points of a series, in order.

    Args:
        values: one value per night.
        level: a part is divided if the probability of its best split is at most this.
    """
    found = best_split(values)
    if found is None or found.p > level:
        return []
    left, right = splits(values[: found.place], level), splits(values[found.place :], level)
    return [*left, found, *(Split(found.place + each.place, each.p) for each in right)]


def _place(values: NDArray[np.float64]) -> int:
    """Return where the level changes: the split with the least sum of squares around two means.

    Ranks would favour the middle, if a level is new. Values far out are drawn in, so that a single night cannot
    decide.
    """
    n, centre = len(values), np.median(values)
    reach = max(5 * float(np.median(np.abs(np.diff(values)))), float(np.median(np.abs(values - centre))))
    drawn = np.clip(values, centre - reach, centre + reach) if reach else values
    k = np.arange(SHORTEST, n - SHORTEST + 1)
    sums = np.cumsum(drawn)
    left, right = sums[k - 1] / k, (sums[-1] - sums[k - 1]) / (n - k)
    return SHORTEST + int(np.argmax(k * (n - k) * (left - right) ** 2))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the ranks from 1; equal values have theirs in random order."""
    order = np.lexsort((np.random.default_rng(SEED).random(len(values)), values))
    ranks = np.empty(len(values))
    ranks[order] = np.arange(1, len(values) + 1)
    return ranks


def _statistics(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return |z(k)| of each row (first axis) for each k (second axis), from ``SHORTEST`` on."""
    n = ranks.shape[1]
    k = np.arange(SHORTEST, n - SHORTEST + 1)
    sums = np.cumsum(ranks, axis=1)[:, SHORTEST - 1 : n - SHORTEST]
    found: NDArray[np.float64] = np.abs(sums - k * (n + 1) / 2) / np.sqrt(k * (n - k) * (n + 1) / 12)
    return found


def _probability(statistic: float, n: int) -> float:
    """Return the probability that T is at least this.

    Far out, where few simulated values are, the normal tail from the simulated 99.9 % quantile on is taken. It is an
    upper bound, as rank sums are bounded and their tails are lighter.
    """
    drawn = _simulated(_length(n))
    above = len(drawn) - int(np.searchsorted(drawn, statistic - 1e-9))
    simulated = (1 + above) / (1 + len(drawn))
    start = float(drawn[math.ceil((1 - _TAIL) * len(drawn)) - 1])
    if simulated > _TAIL or statistic <= start:
        return simulated
    return _TAIL * start / statistic * math.exp((start**2 - statistic**2) / 2)


def _length(n: int) -> int:
    """Return the simulated length that stands for n: of a longer series T tends to be larger, so this is cautious."""
    length = _EVERY_LENGTH
    while length < n:
        length = math.ceil(length * _GROWTH)
    return n if n <= _EVERY_LENGTH else length


@cache
def _simulated(n: int) -> NDArray[np.float64]:
    """Return T of random permutations of n ranks, sorted."""
    draw = np.random.default_rng((SEED, n))
    found, left = [], PERMUTATIONS
    while left:
        rows = min(left, max(1, _CHUNK // n))
        permuted = draw.permuted(np.tile(np.arange(1.0, n + 1), (rows, 1)), axis=1)
        found.append(_statistics(permuted).max(axis=1))
        left -= rows
    return np.sort(np.concatenate(found))
