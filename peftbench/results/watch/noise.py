"""Noise between repetitions of a measurement, pooled over cells, and tests of changes against it.

Changes are differences of a number between two nights; of speeds and sizes they are logarithms of ratios. A change d
with standard error e counts if it is beyond a margin m: p is the probability that a change of m is seen as d or farther
out in either direction, of Student's t above (abs(d) - m) / e and below -(abs(d) + m) / e. It is the largest p value of
all changes up to m; for m = 0 it is that of the two-sided test. Whether the change lies within the margin is
another question, answered by the 95 % interval; a change may be shown neither to exceed the margin nor to lie within
it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from peftbench.results.watch.quantities import Seed

Key = tuple[str, str]
_TO_SD = 1.4826
"""What a median absolute deviation of normal numbers is multiplied with to be their standard deviation."""
_EFFICIENCY = 0.37
"""Efficiency of that estimate relative to the standard deviation's (Rousseeuw and Croux 1993)."""


@dataclass(frozen=True)
class Moves:
    """How much one cell moved between two nights, trial by trial."""

    change: float
    """Mean of the new trials minus mean of the old ones; with the same seeds, of their differences."""
    weight: float
    """Variance of ``change`` as a multiple of that of one trial's difference."""
    squares: float
    """Sum of squares of the deviations within the cell, of differences between two trials."""
    freedom: int
    """Its degrees of freedom."""


def moves(old: Mapping[Seed, float], new: Mapping[Seed, float]) -> Moves | None:
    """Return how much a cell moved: paired by the seeds that both sides have, else by the means of both.

    None if a side has no value.
    """
    both = [seed for seed in old if seed in new]
    if both:
        return of_differences([new[seed] - old[seed] for seed in both])
    if not old or not new:
        return None
    one, other = list(old.values()), list(new.values())
    squares = sum(_squares(values) for values in (one, other))
    # a difference of two trials has twice the variance of one trial
    return Moves(
        statistics.fmean(other) - statistics.fmean(one),
        (1 / len(one) + 1 / len(other)) / 2,
        2 * squares,
        len(one) + len(other) - 2,
    )


def of_differences(differences: Sequence[float]) -> Moves:
    """Return how much a cell moved, from the differences of its trials, at least one."""
    n = len(differences)
    return Moves(statistics.fmean(differences), 1 / n, _squares(differences), n - 1)


def _squares(values: Sequence[float]) -> float:
    mean = statistics.fmean(values)
    return math.fsum((value - mean) ** 2 for value in values)


@dataclass(frozen=True)
class Error:
    """A standard error and its degrees of freedom."""

    value: float
    freedom: float

    def beyond(self, change: float, margin: float) -> float:
        """Return the p value of a change being up to ``margin``, in either direction."""
        from scipy.special import stdtr  # type: ignore[import-untyped]

        excess = abs(change) - margin
        if self.value == 0:
            return 1.0 if excess <= 0 else 0.0
        freedom = min(self.freedom, 1e9)
        tails = (stdtr(freedom, -distance / self.value) for distance in (excess, abs(change) + margin))
        return min(1.0, float(sum(tails)))

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval of a change."""
        from peftbench.results.crossed_effects.student import t_quantile

        return t_quantile(self.freedom) * self.value if self.value else 0.0


def pooled(found: Iterable[Moves], rounds: int = 1) -> tuple[float, int] | None:
    """Return the variance of one trial's difference, pooled over cells, and its degrees of freedom; None if unknown.

    Args:
        found: the moves of all cells.
        rounds: number of means that were subtracted from the differences besides the cells' own, plus one.
    """
    known = list(found)
    freedom = sum(each.freedom for each in known) - (rounds - 1)
    return (math.fsum(each.squares for each in known) / freedom, freedom) if freedom > 0 else None


def spread_over_cells(changes: Sequence[float]) -> Error | None:
    """Return the standard deviation of the cells' changes about their median, from the median absolute deviation.

    If fewer than half of the cells have changed, it is the noise between cells. None for fewer than four.
    """
    n = len(changes)
    if n < FEWEST_CELLS:
        return None
    centre = statistics.median(changes)
    small = n / (n - 0.8)  # the median absolute deviation of few numbers is too small (Croux and Rousseeuw 1992)
    deviation = statistics.median(abs(change - centre) for change in changes)
    return Error(_TO_SD * small * deviation, max(1.0, _EFFICIENCY * (n - 1)))


FEWEST_CELLS = 4
"""Fewest cells of which the others can say what the machine did."""
SHARE_OF_CELLS = 2 / 3
"""Least share of cells that says what all cells did."""


def larger(*errors: Error | None) -> Error | None:
    """Return the largest of the errors that are known; None if none is."""
    known = [error for error in errors if error is not None]
    return max(known, key=lambda error: error.value) if known else None


def adjusted(p_values: Mapping[Key, float]) -> dict[Key, float]:
    """Return p values adjusted by Holm's method over all keys."""
    from peftbench.results.crossed_effects.ranking import holm

    return dict(zip(p_values, holm(list(p_values.values())), strict=True))
