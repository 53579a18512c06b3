"""What a number of seeds and examples can show: the smallest gap that would be found, and the seeds a gap needs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from scipy.special import stdtrit  # type: ignore[import-untyped]

from peftbench.crossed.model import LEVEL, Outcomes, difference_parts

POWER = 0.8
MOST_SEEDS = 1000
"""Where the search for a number of seeds ends."""


@dataclass(frozen=True)
class Noise:
    """Variances of the difference of two cells, by what another draw of each would change; fractions of 1, squared."""

    seed: float
    """Between seeds, both cells' together."""
    example: float
    """Between examples, already divided by their number: what no seed takes away."""
    residual: float
    """Of a seed on these examples, both cells' together."""
    seeds: int
    """How many each cell has."""
    examples: int


def noise(pairs: Iterable[tuple[Outcomes, Outcomes]]) -> Noise | None:
    """Return the mean noise of the pairs in which both cells have several seeds; None where there is none.

    Components are averaged before a negative mean counts as zero, which keeps the average unbiased.
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
    """Return the smallest true difference that a test finds with a probability of 80 %, a fraction of 1.

    (t(1 - a/2) + t(0.8)) times the standard error, with the Satterthwaite degrees of freedom that the components give
    for this many seeds; a is the level divided by the number of comparisons, Holm's strictest step.
    """
    a, r = (given.seed + given.residual) / seeds, given.residual / seeds
    variance = given.seed / seeds + given.example + r
    if variance <= 0:
        return 0.0
    b = given.example + r
    # two cells share A and R evenly: each has seeds - 1 degrees of freedom for its half
    uncertainty = a**2 / (2 * (seeds - 1)) + b**2 / (given.examples - 1)
    uncertainty += r**2 / (2 * (seeds - 1) * (given.examples - 1))
    freedom = variance**2 / uncertainty
    quantiles = stdtrit(freedom, 1 - LEVEL / comparisons / 2) + stdtrit(freedom, POWER)
    return min(1.0, float(quantiles) * math.sqrt(variance))


def seeds_needed(given: Noise, gap: float, comparisons: int = 1) -> int | None:
    """Return the fewest seeds at which a gap would be found; None where no number of seeds does (too few examples)."""
    if gap <= 0 or detectable(given, MOST_SEEDS, comparisons) > gap:
        return None
    low, high = 2, MOST_SEEDS
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable(given, middle, comparisons) <= gap else (middle + 1, high)
    return low


def sentence(given: Noise, scores: Sequence[float], comparisons: int) -> str:
    """Return what the table can show, and a warning where it can show none of its gaps.

    Args:
        given: the table's noise.
        scores: of its cells, fractions of 1.
        comparisons: how many Holm's correction is over.
    """
    smallest = detectable(given, given.seeds, comparisons)
    gap = max(scores) - min(scores)
    told = (
        f"With {given.seeds} seeds and {given.examples:,} examples a difference of {100 * smallest:.1f} points would "
        f"be found with a probability of 80 % ({comparisons} comparisons, Holm)"
    )
    if gap >= smallest or gap <= 0:
        return f"{told}."
    needed = seeds_needed(given, gap, comparisons)
    how = f"it would take about {needed} seeds" if needed else "no number of seeds would do on so few examples"
    return f"{told}; the largest in this table is {100 * gap:.1f}: seeds and examples explain it, {how}."
