"""Grids whose learning rate is an axis: the best rate of each sweep, and its ratio to that of full fine-tuning.

In each seed, a parabola through the loss at the best rate tried and at its two neighbours, over the logarithm of the
rate, has its lowest point at that seed's best rate. The ratio of two sweeps' best rates is the mean over their common
seeds of the difference of these logarithms, with Student's t interval. It generalizes to new seeds, on the same data
and the same rates. Losses that are no parabola there (they rise faster above the best rate than below it) bias both
best rates alike, so their ratio less than either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from peftbench.results.seeds import paired_interval

Losses = Mapping[int, Mapping[float, float | None]]
"""Seed -> learning rate -> what is minimized; None where the trial failed."""
FEWEST = 3
"""Rates of a sweep; fewer have no point between two others."""


@dataclass(frozen=True)
class BestRate:
    """The best learning rate of one seed."""

    rate: float
    """The lowest point of the parabola; at an edge, or beside a trial that failed, the best rate tried."""
    edge: str | None
    """``smallest`` or ``largest`` if the best rate tried is the last on that side: a better one may lie beyond."""
    between: bool
    """Whether the rate was read off a parabola."""


@dataclass(frozen=True)
class Ratio:
    """How many times another sweep's best rate one is."""

    ratio: float
    """Geometric mean over the seeds."""
    low: float | None
    high: float | None
    """The ends of the 95 % interval over seeds; None for a single seed, and if a best rate was not read off a parabola:
    it is known to the step of the grid only, of which an interval over seeds knows nothing."""
    seeds: int


def best_rate(losses: Mapping[float, float | None]) -> BestRate | None:
    """Return the best learning rate of one seed; None if fewer than ``FEWEST`` rates were tried or none ended ok.

    Args:
        losses: what is minimized at each rate; None where the trial failed, for example because it diverged.
    """
    rates = sorted(losses)
    known = [rate for rate in rates if _finite(losses[rate])]
    if len(rates) < FEWEST or not known:
        return None
    best = min(known, key=lambda rate: (losses[rate], rate))
    place = rates.index(best)
    if place in (0, len(rates) - 1):
        return BestRate(best, "smallest" if place == 0 else "largest", False)
    three = rates[place - 1 : place + 2]
    lowest = _lowest([math.log(rate) for rate in three], [losses[rate] for rate in three])
    return BestRate(best, None, False) if lowest is None else BestRate(math.exp(lowest), None, True)


def _lowest(x: Sequence[float], y: Sequence[float | None]) -> float | None:
    """Return where the parabola through three points, the middle one of which is the lowest, has its minimum."""
    left, middle, right = y
    if left is None or middle is None or right is None or not all(map(_finite, y)):
        return None
    below, above = (left - middle) / (x[1] - x[0]), (right - middle) / (x[2] - x[1])
    if below + above <= 0:  # three equal losses
        return None
    curvature = (below + above) / (x[2] - x[0])
    slope = (above * (x[1] - x[0]) - below * (x[2] - x[1])) / (x[2] - x[0])
    return x[1] - slope / (2 * curvature)


def _finite(loss: float | None) -> bool:
    return loss is not None and math.isfinite(loss)


def ratio(losses: Losses, reference: Losses) -> Ratio | None:
    """Return how many times the reference's best rate a sweep's is.

    Args:
        losses: of the sweep.
        reference: of the sweep it is compared with.

    Returns:
        None if they have no common seed, or if a best rate of one of these is unknown or at an edge of those tried.
    """
    pairs = [(best_rate(losses[seed]), best_rate(reference[seed])) for seed in sorted(set(losses) & set(reference))]
    differences = []
    for one, other in pairs:
        if one is None or other is None or one.edge or other.edge:
            return None
        differences.append(math.log(one.rate / other.rate))
    if not differences:
        return None
    found = paired_interval(differences)
    if found is None or not all(best and best.between for pair in pairs for best in pair):
        return Ratio(math.exp(math.fsum(differences) / len(differences)), None, None, len(differences))
    mean, half = found
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half), len(differences))
