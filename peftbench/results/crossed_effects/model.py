"""One crossed model of seeds and examples: the score of a cell, the difference of two, each with one interval.

The outcome of example i under seed s is modelled as

    y[s, i] = mean + seed[s] + example[i] + residual[s, i]

with random effects for seed, example and their interaction (which for one run per seed includes the noise). With the
mean squares of the three, a cell's mean over S seeds and I examples has the estimated variance

    V = A + B - R,   A = var_s(mean_i y) / S,   B = var_i(mean_s y) / I,   R = var(residual) / (S I)

for new seeds and new examples: both A and B hold the residual's part, so it is taken off once. V is never less than A
(a negative variance between examples counts as zero). Where A - R, the seeds' own part, comes out negative, half of it
counts: with three seeds, all of it makes intervals too short and none of it too long (``docs/statistics.md``).
The degrees of freedom are Satterthwaite's, V^2 / (A^2 / (S - 1) + B^2 / (I - 1) + R^2 / ((S - 1)(I - 1))). A sum of
mean squares has at least as many as the one with the fewest, so at least 1. Since R is subtracted, the formula can give
any number above 0 (Gaylor and Hopper 1969). Below 1, V is what a cancellation has left over: it then counts as R, the
variance that the mean would have if neither seeds nor examples differed, and the degrees of freedom are at least 1.

For the difference of two cells B is of the examples' differences (they are the same examples), while A and R are the
sums of both cells' own: seeds are not paired, which gives the seeds of both cells to the degrees of freedom, needs no
equal numbers of seeds, and is conservative where a seed moves both methods alike. ``paired=True`` pairs them, for the
same method before and after a change.

Several tasks are one score by their unweighted mean; examples are then random within tasks and A is of the seeds' means
over tasks.

References: Satterthwaite 1946, Biometrics Bulletin 2(6); Gaylor and Hopper 1969, Technometrics 11(4); Searle, Casella
and McCulloch 1992, "Variance Components"; Clark 1973, J. Verbal Learning and Verbal Behavior 12(4), on why examples
must be random too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr  # type: ignore[import-untyped]

from peftbench.results.crossed_effects.student import p_value, t_quantile

Array = NDArray[np.float64]
Terms = tuple[tuple[float, int], ...]
"""Variances of a mean, each with its degrees of freedom."""
Scope = Literal["new seeds and new examples", "new examples, these checkpoints"]
"""What an interval generalizes to: the second if a trained cell has one seed, whose spread is then unknown."""
LARGEST = 1e60
"""Largest size of an outcome: squared variances of larger ones could exceed the range of floats."""
FEWEST_DEGREES = 1.0
"""Smallest number of degrees of freedom: that of the mean square of two seeds or of two examples."""


@dataclass(frozen=True)
class Outcomes:
    """The complete outcomes of a cell: every seed on every example."""

    tasks: tuple[Array, ...]
    """One array (seeds, examples) per task, fractions of 1; the score is the unweighted mean over tasks."""
    seedless: bool = False
    """Whether only the examples are random: true for the untuned base model, whose one row stands for every seed."""

    @classmethod
    def of(cls, *tasks: Sequence[Sequence[float]] | Array, seedless: bool = False) -> Outcomes:
        """Return the outcomes of one array (seeds, examples) per task.

        Raises:
            ValueError: if a task's array is not two-dimensional, has fewer than two examples, has values that are not
                finite, has another number of seeds than the first one, or has several rows although seedless.
        """
        arrays = tuple(np.asarray(task, dtype=np.float64) for task in tasks)
        if not arrays:
            raise ValueError("no task has outcomes: at least one array (seeds, examples) is needed")
        for array in arrays:
            if array.ndim != 2 or array.shape[0] < 1 or array.shape[1] < 2:
                raise ValueError(f"outcomes must be (seeds, at least two examples), got shape {array.shape}")
            if not (np.abs(array) <= LARGEST).all():
                raise ValueError(f"outcomes must be finite and at most {LARGEST:g}, of every seed on every example")
            if len(array) != len(arrays[0]):
                raise ValueError(f"every task needs the same seeds, got {len(arrays[0])} and {len(array)}")
        if seedless and len(arrays[0]) != 1:
            raise ValueError(f"a cell without seeds has one row of outcomes, got {len(arrays[0])}")
        return cls(arrays, seedless)

    @property
    def seeds(self) -> int:
        """Number of seeds; 1 for a cell without seeds."""
        return len(self.tasks[0])

    @property
    def examples(self) -> tuple[int, ...]:
        """Number of examples of each task."""
        return tuple(task.shape[1] for task in self.tasks)

    @property
    def mean(self) -> float:
        """The score, a fraction of 1."""
        return float(self.by_seed.mean())

    @cached_property
    def by_seed(self) -> Array:
        """Score of each seed, of shape (seeds,)."""
        return np.mean([task.mean(axis=1) for task in self.tasks], axis=0)

    @cached_property
    def by_example(self) -> tuple[Array, ...]:
        """Outcomes of each task averaged over seeds, of shape (examples,)."""
        return tuple(task.mean(axis=0) for task in self.tasks)

    @cached_property
    def seed_parts(self) -> tuple[Terms, Terms]:
        """A and, per task, R, each with its degrees of freedom; empty for fewer than two seeds."""
        s, t = self.seeds, len(self.tasks)
        if s < 2:
            return (), ()
        residual = []
        for task, means in zip(self.tasks, self.by_example, strict=True):
            left = task - task.mean(axis=1, keepdims=True) - means + means.mean()
            freedom = (s - 1) * (task.shape[1] - 1)
            residual.append((float((left**2).sum()) / freedom / task.size / t**2, freedom))
        return ((float(self.by_seed.var(ddof=1)) / s, s - 1),), tuple(residual)

    @property
    def spread_known(self) -> bool:
        """Whether the variance between seeds is known."""
        return self.seedless or self.seeds > 1

    @property
    def bounded(self) -> bool:
        """Whether every outcome lies in [0, 1]."""
        return all(task.min() >= 0 and task.max() <= 1 for task in self.tasks)


@dataclass(frozen=True)
class Components:
    """Variance components of outcomes: per seed, per example and per pair of both."""

    seed: float
    """Variance between seeds of their expected score."""
    example: float
    """Variance between examples of their expected outcome over seeds.

    With several tasks it is scaled such that dividing by the number of all examples gives its part of the variance."""
    residual: float
    """Variance of a seed on an example, scaled in the same way."""


@dataclass(frozen=True)
class Estimate:
    """A score or a difference of scores, fractions of 1."""

    value: float
    standard_error: float
    degrees_of_freedom: float
    low: float
    """Lower end of the 95 % interval. Scores stay within [0, 1] and differences within [-1, 1]."""
    high: float
    p: float | None
    """Two-sided p value of the hypothesis of no difference; None for a score."""
    scope: Scope

    @property
    def half_width(self) -> float:
        """Half the width of the interval by Student's t, before it is clipped to its bounds."""
        return t_quantile(self.degrees_of_freedom) * self.standard_error


@dataclass(frozen=True)
class Parts:
    """Parts of the variance of a mean or of a difference; each part is a variance of a mean."""

    seeds: Terms
    """A and its degrees of freedom, for each cell with seeds."""
    example: Terms
    """B and its degrees of freedom, for each task."""
    residual: Terms
    """R and its degrees of freedom, for each cell with seeds and each task."""

    @property
    def variance(self) -> float:
        """V, as defined at the top of this module."""
        return self._judged[0]

    @property
    def sums(self) -> tuple[float, float, float]:
        """A, B and R, summed over cells and tasks."""
        a, b, r = (sum(value for value, _ in part) for part in (self.seeds, self.example, self.residual))
        return a, b, r

    @property
    def degrees_of_freedom(self) -> float:
        """Satterthwaite's degrees of freedom, at least ``FEWEST_DEGREES``; infinite if nothing varies."""
        return self._judged[1]

    @cached_property
    def _judged(self) -> tuple[float, float]:
        each = (*self.seeds, *self.example, *self.residual)
        found, freedom = judged(*self.sums, sum(value * value / degrees for value, degrees in each))
        return float(found), float(freedom)


def judged(a: Array | float, b: Array | float, r: Array | float, uncertainty: Array | float) -> tuple[Array, Array]:
    """Return V and its degrees of freedom, as defined at the top of this module; arrays are combined elementwise.

    Args:
        a: A, the variance of the mean by seeds.
        b: B, by examples.
        r: R, of the residual.
        uncertainty: the sum of the squares of all parts, each divided by its degrees of freedom.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        seeds = np.subtract(a, r)
        found = np.maximum(a, b + np.where(seeds > 0, seeds, seeds / 2))
        found = np.where(found * found < FEWEST_DEGREES * np.asarray(uncertainty), np.maximum(found, r), found)
        freedom = np.where(np.asarray(uncertainty) > 0, found * found / uncertainty, math.inf)
    return found, np.maximum(freedom, FEWEST_DEGREES)


def components(outcomes: Outcomes) -> Components:
    """Return the variance components of a cell; negative estimates, and for one seed its unknown parts, are zero."""
    found = parts(outcomes)
    seeds, examples = outcomes.seeds, sum(outcomes.examples)
    a, b, r = found.sums
    return Components(max(0.0, a - r) * seeds, max(0.0, b - r) * examples, r * seeds * examples)


def parts(outcomes: Outcomes) -> Parts:
    """Return the parts of the variance of a cell's mean."""
    seeds, residual = outcomes.seed_parts
    return Parts(seeds, _example_parts(outcomes.by_example), residual)


def difference_parts(one: Outcomes, other: Outcomes, *, paired: bool = False) -> Parts:
    """Return the parts of the variance of ``other - one``.

    Args:
        one: outcomes (seeds, examples) of each task.
        other: outcomes of another cell on the same examples in the same order; its seeds may be different ones.
        paired: whether row s of both is the same seed of the same method; False pairs the examples only.

    Raises:
        ValueError: if the numbers of examples differ, or those of paired seeds.
    """
    if one.examples != other.examples:
        raise ValueError(f"differences need the same examples, got {one.examples} and {other.examples}")
    if paired:
        if one.seeds != other.seeds:
            raise ValueError(f"paired cells need the same number of seeds, got {one.seeds} and {other.seeds}")
        return parts(_subtract(one, other))
    means = [b - a for a, b in zip(one.by_example, other.by_example, strict=True)]
    (seeds, residual), (more_seeds, more_residual) = one.seed_parts, other.seed_parts
    return Parts(seeds + more_seeds, _example_parts(means), residual + more_residual)


def score(outcomes: Outcomes) -> Estimate:
    """Return a cell's score with its interval.

    For outcomes within [0, 1] it is Wilson's interval with the number of independent examples that would have the
    variance V, so it stays within [0, 1]. If all outcomes are 0 or all are 1, that number is the examples of one run.

    Reference: Wilson 1927, Journal of the American Statistical Association 22(158).
    """
    found, value = parts(outcomes), outcomes.mean
    low, high = _score_interval(outcomes, value, found)
    error = math.sqrt(found.variance)
    return Estimate(value, error, found.degrees_of_freedom, low, high, None, _scope(outcomes))


def difference(one: Outcomes, other: Outcomes, *, paired: bool = False) -> Estimate:
    """Return ``other - one`` on the same examples, with interval and p value.

    If a trained cell has one seed, both generalize to new examples of these checkpoints only. For binary outcomes of
    one task with a single seed each, p is then that of McNemar's exact test.

    Args:
        one: outcomes (seeds, examples) of each task.
        other: outcomes of another cell on the same examples in the same order.
        paired: see ``difference_parts``.

    Raises:
        ValueError: if the numbers of examples differ, or those of paired seeds.
    """
    found = difference_parts(one, other, paired=paired)
    value, error, freedom = other.mean - one.mean, math.sqrt(found.variance), found.degrees_of_freedom
    half = t_quantile(freedom) * error
    scope = _scope(one, other)
    p = _mcnemar(one, other) if scope != "new seeds and new examples" else None
    if p is None:
        p = p_value(value, error, freedom)
    low, high = value - half, value + half
    if one.bounded and other.bounded:
        low, high = max(low, -1.0), min(high, 1.0)
    return Estimate(value, error, freedom, low, high, p, scope)


def _example_parts(means: Sequence[Array]) -> Terms:
    """Return B and its degrees of freedom of each task, from the examples' means over seeds."""
    return tuple((float(task.var(ddof=1)) / len(task) / len(means) ** 2, len(task) - 1) for task in means)


def _subtract(one: Outcomes, other: Outcomes) -> Outcomes:
    return Outcomes(tuple(b - a for a, b in zip(one.tasks, other.tasks, strict=True)), one.seedless and other.seedless)


def _scope(*cells: Outcomes) -> Scope:
    known = all(cell.spread_known for cell in cells)
    return "new seeds and new examples" if known else "new examples, these checkpoints"


def _score_interval(outcomes: Outcomes, value: float, found: Parts) -> tuple[float, float]:
    """Return the lowest and the highest value that differ from the score by at most t of their own standard errors."""
    t, variance = t_quantile(found.degrees_of_freedom), found.variance
    if not outcomes.bounded:
        return value - t * math.sqrt(variance), value + t * math.sqrt(variance)
    bernoulli = value * (1 - value)  # variance of one binary outcome
    k = t * t * variance / bernoulli if bernoulli > 1e-12 else t_quantile(math.inf) ** 2 / sum(outcomes.examples)
    centre, half = (value + k / 2) / (1 + k), math.sqrt(k * bernoulli + k * k / 4) / (1 + k)
    return min(value, max(0.0, centre - half)), max(value, min(1.0, centre + half))


def _mcnemar(one: Outcomes, other: Outcomes) -> float | None:
    """Return the p value of McNemar's exact test for two rows of binary outcomes; None for other outcomes.

    Reference: McNemar 1947, Psychometrika 12(2), with the binomial distribution instead of chi-squared.
    """
    if one.seeds != 1 or other.seeds != 1 or len(one.tasks) != 1:
        return None
    before, after = one.tasks[0][0], other.tasks[0][0]
    if not np.isin(np.concatenate([before, after]), (0.0, 1.0)).all():
        return None
    gained, lost = int((after > before).sum()), int((after < before).sum())
    return min(1.0, 2 * float(bdtr(min(gained, lost), gained + lost, 0.5)))
