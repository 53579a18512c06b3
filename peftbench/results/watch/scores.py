"""Scores, and the loss on general text: the crossed model of seeds and examples, with Holm's correction over the cells.

A difference of a score is tested

- if both sides store the outcomes of the same examples and have several seeds: by the crossed random-effects model of
  seeds and examples (``peftbench.results.crossed_effects``), with seeds paired if both sides have the same ones;
- else by the t-test of the differences seed by seed, or by Welch's if the seeds are others;
- of a single seed by the wider of two errors: over its examples, and from the other side's spread over seeds.

The untuned base model has no seed. On one machine, with the same versions of what computes, it repeats exactly, and any
difference counts; else rounding may turn an answer, and its difference is tested over the examples (McNemar's test).

Seeds that all moved by the same amount have no spread, but that is no proof of none: their error is that over examples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftbench.results.crossed_effects.student import LEVEL, p_value
from peftbench.results.seeds import Spread, spread_of
from peftbench.results.watch.findings import Cell, Finding, Verdict, moved
from peftbench.results.watch.noise import adjusted
from peftbench.results.watch.quantities import Quantity, Seed, mean

if TYPE_CHECKING:
    from peftbench.results.crossed_effects.model import Estimate

WITHIN_POINTS = 2.0
"""Difference of scores, in points, within which a score is called unchanged if its interval lies within."""
NO_SPREAD = "seeds do not differ from each other at all, so that their noise is not known"
_ROUNDING = 1e-12
"""Spread between seeds, as a share of the values, up to which it is rounding."""


@dataclass(frozen=True)
class Difference:
    """A difference of two means, new minus old, with its standard error."""

    value: float
    error: float
    freedom: float
    p: float | None = None
    """p value of no difference if it is of another test than Student's, as McNemar's."""

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % interval."""
        from peftbench.results.crossed_effects.student import t_quantile

        return t_quantile(self.freedom) * self.error if self.error else 0.0

    def beyond(self, tolerated: float) -> float:
        """Return the two-sided p value of a difference up to ``tolerated``."""
        if not tolerated and self.p is not None:
            return self.p
        return p_value(max(0.0, abs(self.value) - tolerated), self.error, self.freedom)


@dataclass(frozen=True)
class Compared:
    """The values of a cell on both sides, and their difference."""

    old: Mapping[Seed, float]
    new: Mapping[Seed, float]
    difference: Difference | None
    """None if the noise is not known."""
    repeats: bool = True
    """Whether what has no seed gives the same number again: on a device that repeats, the same machine and versions."""

    @property
    def seedless(self) -> bool:
        """Whether it is the untuned base model."""
        return {*self.old, *self.new} == {None}

    @property
    def exact(self) -> bool:
        """Whether nothing is random: the untuned base model where it repeats."""
        return self.repeats and self.seedless

    @property
    def same(self) -> bool:
        """Whether the seeds that both sides have gave the same values; of other seeds, the same ends and mean."""
        both = [seed for seed in self.old if seed in self.new]
        if both:
            return all(self.old[seed] == self.new[seed] for seed in both)
        one, other = sorted(self.old.values()), sorted(self.new.values())
        return (mean(self.old), one[0], one[-1]) == (mean(self.new), other[0], other[-1])


@dataclass(frozen=True)
class Limits:
    """From which change on a quantity counts, in its unit."""

    tolerated: float
    """Change up to which it is none."""
    within: float
    """It is unchanged if the interval of its change lies within."""


def judge(quantity: Quantity, cells: Mapping[Cell, Compared], limits: Mapping[Cell, Limits]) -> list[Finding]:
    """Return the verdicts on a score, or on the loss on general text.

    Equal numbers are unchanged. A difference counts if it is significant after Holm's correction over the cells.
    One that is not is unchanged if its interval lies within ``Limits.within``, else it cannot be told.
    """
    p = adjusted(
        {
            cell: one.difference.beyond(limits[cell].tolerated)
            for cell, one in cells.items()
            if one.difference and not one.same and not one.exact
        }
    )
    return [_finding(cell, quantity, one, limits[cell], p.get(cell)) for cell, one in cells.items()]


def _finding(cell: Cell, quantity: Quantity, one: Compared, limits: Limits, p: float | None) -> Finding:
    old, new, trials = mean(one.old), mean(one.new), (len(one.old), len(one.new))
    both = {seed: value for seed, value in one.old.items() if seed in one.new}
    if one.same and both:
        return Finding(*cell, quantity, "unchanged", "the same numbers", mean(both), mean(both), (len(both),) * 2, 0.0)
    absolute = (new or 0.0) - (old or 0.0)
    scale = old if quantity.relative and old else 1.0
    if one.same:
        return Finding(*cell, quantity, "unchanged", "the same numbers", old, new, trials, 0.0)
    if one.exact:
        counts = abs(absolute) > limits.tolerated
        verdict: Verdict = moved(quantity, absolute) if counts else "unchanged"
        return Finding(*cell, quantity, verdict, "no seed, no noise", old, new, trials, absolute / scale)
    if one.difference is None or p is None:
        single = max(len(one.old), len(one.new)) < 2
        why = "a single trial, of which no error is known" if single else NO_SPREAD
        return Finding(*cell, quantity, "cannot tell", "noise", old, new, trials, absolute / scale, reason=why)
    change, half = one.difference.value, one.difference.half_width
    low, high = change - half, change + half
    reason = None
    if p < LEVEL:
        verdict = moved(quantity, change)
    elif -limits.within <= low and high <= limits.within:
        verdict = "unchanged"
    else:
        verdict, reason = "cannot tell", "within noise, which is too large to call it unchanged"
    rule = "beyond noise over examples" if one.seedless else "beyond noise over seeds and examples"
    return Finding(
        *cell, quantity, verdict, rule, old, new, trials, change / scale, low / scale, high / scale, p, reason
    )


def of_estimate(found: Estimate) -> Difference:
    """Return a difference from that of the crossed model."""
    single = found.scope != "new seeds and new examples"
    return Difference(found.value, found.standard_error, found.degrees_of_freedom, found.p if single else None)


def over_seeds(
    old: Mapping[Seed, float], new: Mapping[Seed, float], errors: Sequence[float | None] = (None, None)
) -> Difference | None:
    """Return the difference of two sides' values with its error from the spread over seeds.

    Args:
        old: values by seed, at least one.
        new: values by seed, at least one.
        errors: the mean standard error of each side's score over its examples, which serves for a single seed, and for
            seeds without any spread; None if it is not known.
    """
    least = _ROUNDING * max(map(abs, (*old.values(), *new.values())), default=0.0)
    if len(old) > 1 and old.keys() == new.keys():
        paired = spread_of(new[seed] - value for seed, value in old.items())
        if paired is not None and paired.sd is not None and paired.sd > least:
            return Difference(paired.mean, paired.sd / math.sqrt(paired.n), paired.n - 1)
    one, other = spread_of(old.values()), spread_of(new.values())
    if one is None or other is None:
        return None
    change = other.mean - one.mean
    if old.keys() != new.keys() and one.sd is not None and other.sd is not None and max(one.sd, other.sd) > least:
        return Difference(change, *_welch(one, other))
    from_one = _from_one_side(one, other, least) if min(len(old), len(new)) < 2 else None
    known = [found for found in (_over_examples(errors), from_one) if found is not None]
    differences = [Difference(change, *found) for found in known]
    return max(differences, key=lambda each: each.half_width) if differences else None


def _welch(one: Spread, other: Spread) -> tuple[float, float]:
    """Return standard error and degrees of freedom of a difference of means (Welch 1947)."""
    a, b = ((side.sd or 0.0) ** 2 / side.n for side in (one, other))
    shares = a / (a + b), b / (a + b)
    return math.sqrt(a + b), 1 / (shares[0] ** 2 / (one.n - 1) + shares[1] ** 2 / (other.n - 1))


def _over_examples(errors: Sequence[float | None]) -> tuple[float, float] | None:
    known = [error for error in errors if error is not None]
    return (math.hypot(*known), math.inf) if len(known) == len(errors) else None


def _from_one_side(one: Spread, other: Spread, least: float) -> tuple[float, float] | None:
    """Return the error if one side has a single seed: the other's spread over seeds counts for both."""
    known = one if one.sd is not None else other
    if known.sd is None or known.sd <= least:
        return None
    return known.sd * math.sqrt(1 / one.n + 1 / other.n), float(known.n - 1)
