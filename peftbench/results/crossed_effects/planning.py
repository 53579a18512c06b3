"""Power analysis: the smallest difference that seeds and examples can show, and the seeds that one needs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr  # type: ignore[import-untyped]

from peftbench.results.crossed_effects.model import Outcomes, difference_parts, judged
from peftbench.results.crossed_effects.student import LEVEL, t_quantile

POWER = 0.8
"""Probability with which a true difference is to be found."""
DRAWS = 2000
SEED = 0
"""Seed of the draws, so that the same noise gives the same answer."""
MOST_SEEDS = 1000
"""Largest number of seeds that is considered."""


@dataclass(frozen=True)
class Noise:
    """Variance components of the difference of two cells, in squared fractions of 1."""

    seed: float
    """Between seeds, summed over both cells."""
    example: float
    """Between examples, already divided by their number: the part that more seeds do not reduce."""
    residual: float
    """Of a seed on these examples, summed over both cells."""
    seeds: int
    """Seeds of each cell."""
    examples: int


@dataclass(frozen=True)
class Sensitivity:
    """Which differences between the cells of a table can be found."""

    seeds: int
    """Seeds of each cell."""
    examples: int
    comparisons: int
    """Number of comparisons in Holm's correction."""
    detectable: float
    """Smallest true difference that is found with a probability of ``POWER``, a fraction of 1; infinity if none is."""
    largest_gap: float
    """Largest difference between two scores of the table, a fraction of 1."""
    undetectable: bool
    """Whether the table has a difference and none that is as large as ``detectable``."""
    seeds_needed: int | None
    """If so, the seeds at which the largest difference would be found; None if no number of seeds is enough."""


def noise(pairs: Iterable[tuple[Outcomes, Outcomes]]) -> Noise | None:
    """Return the mean noise of the pairs in which both cells have several seeds; None if there is no such pair.

    A negative component counts as zero only after averaging, so that the average is not biased upwards.
    """
    found = []
    for one, other in pairs:
        counts = [cell.seeds for cell in (one, other)]
        if min(counts) < 2:
            continue
        parts = difference_parts(one, other)
        a, b, r = parts.sums
        found.append((a - r, b - r, r, min(counts), sum(one.examples)))
    if not found:
        return None
    n = len(found)
    seeds = min(each[3] for each in found)
    seed, example, residual = (sum(each[place] for each in found) / n for place in range(3))
    return Noise(max(0.0, seed) * seeds, max(0.0, example), residual * seeds, seeds, found[0][4])


def detectable(given: Noise, seeds: int, comparisons: int = 1) -> float:
    """Return the smallest true difference that the test finds with a probability of ``POWER``, a fraction of 1.

    Infinity if not even the largest difference, 1, is found with it.

    The test estimates its standard error and degrees of freedom from mean squares, which are random. They are drawn
    here from chi-squared distributions whose means follow from the components and the number of seeds. The estimated
    difference is normally distributed.

    Args:
        given: variance components of the difference.
        seeds: seeds of each of the two cells, at least 2.
        comparisons: number that the level is divided by, as in the strictest step of Holm's correction.
    """
    between, example, residual = given.seed / seeds, given.example, given.residual / seeds
    exact = between + example + residual
    if exact <= 0:
        return 0.0
    generator = np.random.default_rng(SEED)
    freedom, many = seeds - 1, given.examples - 1
    halves = (between + residual) / 2 * generator.chisquare(freedom, (2, DRAWS)) / freedom
    b = (example + residual) * generator.chisquare(many, DRAWS) / many
    a = halves.sum(axis=0)
    uncertainty = (halves**2).sum(axis=0) / freedom + b**2 / many + residual**2 / (2 * freedom * many)
    found, degrees = judged(a, b, residual, uncertainty)
    needed = t_quantile(degrees, LEVEL / comparisons) * np.sqrt(found)

    def power(gap: float) -> float:
        error = math.sqrt(exact)
        return float(np.mean(ndtr((gap - needed) / error) + ndtr((-gap - needed) / error)))

    if not power(1.0) >= POWER:  # also if it is not a number
        return math.inf
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (low, middle) if power(middle) >= POWER else (middle, high)
    return high


def seeds_needed(given: Noise, gap: float, comparisons: int = 1) -> int | None:
    """Return the fewest seeds at which a difference would be found; None if no number of seeds is enough."""
    if gap <= 0 or detectable(given, MOST_SEEDS, comparisons) > gap:
        return None
    low, high = 2, MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable(given, middle, comparisons) <= gap else (middle + 1, high)
    return low


def sensitivity(given: Noise, scores: Sequence[float], comparisons: int) -> Sensitivity:
    """Return which differences a table can show, and what its largest one would take.

    Args:
        given: the table's noise.
        scores: of its cells, fractions of 1.
        comparisons: number of comparisons in Holm's correction.
    """
    smallest, gap = detectable(given, given.seeds, comparisons), max(scores) - min(scores)
    undetectable = 0 < gap < smallest
    needed = seeds_needed(given, gap, comparisons) if undetectable else None
    return Sensitivity(given.seeds, given.examples, comparisons, smallest, gap, undetectable, needed)
