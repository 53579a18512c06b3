"""How far each cell lies below the best cell, for new seeds and new examples: probabilities and bounds.

A cell's loss is the best true score among the cells minus its own. For two cells i and j the crossed model gives the
difference x_j - x_i of their scores with a standard error s_ij and Satterthwaite's degrees of freedom (``model``).

**Draws.** Scores are drawn jointly. What matters are differences, so each drawn score is the leader's (the highest
measured) plus a difference from it, x_i - x_leader + s_i,leader T_i, where T_i has Student's t distribution with the
degrees of freedom of that difference. The T_i depend on each other as the differences do, by a Gaussian copula with
their correlation: examples are common to all cells, seeds are each cell's own. The probability that a cell lies within
d of the best is the share of draws in which the highest score minus its own is at most d.

**Level.** Among many cells that are each not good enough, some look it by luck. So a cell is called good enough only if
its probability reaches a level, 95 % or more, at which a table in which cells lie exactly at the tolerated loss would
have any of them called so with a probability of at most 5 %. The level is computed from the same draws: the leader and
the k cells that may lie within the loss are put at it, their scores are drawn, and the highest of the k cells'
probabilities is at or above the level in 5 % of the draws; k is the number of such cells, its half, its quarter and so
on, and the highest of their levels counts. Two cells have the level 95 %. It is computed at the losses ``LEVELS_AT``
and interpolated between them, rounded up to a thousandth, so that a page that has them decides as this module does.

**Few errors.** If two cells are right on the same examples, their difference has no variance, although new examples
could differ. Three examples on which they disagree are added to the sum of squares, which reproduces the upper bound of
3 / I for no event among I (the rule of three, Hanley and Lippman-Hand 1983).

Reference: Hanley and Lippman-Hand 1983, JAMA 249(13):1743.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtrit  # type: ignore[import-untyped]

from peftbench.results.crossed_effects.front import factor
from peftbench.results.crossed_effects.model import Array, Outcomes, judged
from peftbench.results.crossed_effects.student import LEVEL

Array32 = NDArray[np.float32]


@dataclass(frozen=True)
class Size:
    """How much is drawn."""

    draws: int = 4000
    """Drawn scores of each cell; fewer if there are more than 250 cells."""
    tables: int = 400
    """Tables that are drawn for the level; fewer if more than 50 cells may lie within the loss."""
    against: int = 1000
    """Draws with which each cell of these tables is judged."""


MOST_DRAWN = 1_000_000
"""Most drawn scores of all cells together; more cells than 250 have fewer draws each."""
SEED = 0
"""Seed of the draws, so that the same results give the same probabilities."""
SURE = 1 - LEVEL
"""Probability from which on a cell can be good enough."""
_POSSIBLE, _MOST_POSSIBLE = 0.005, 100
"""A cell may lie within a loss if it does, compared with the leader alone, with this probability; at most so many."""
_MOST_TABLES = 20_000
"""Tables times cells that are drawn for the level."""
LEVELS_AT = tuple(points / 100 for points in (0, 0.5, 1, 1.5, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 50, 100))
"""Losses, fractions of 1, at which the level is computed."""
_SAME = 1e-9
"""Losses that differ by less are the same."""
DISAGREEING = 3.0
"""Examples on which two cells disagree that are added to those observed."""
_KNOTS = np.linspace(0.0, 6.0, 121).clip(1e-3)
_ROUNDING = 1e-6
"""Losses are compared with the tolerated one up to the rounding of single precision."""


@dataclass(frozen=True)
class Losses:
    """Losses of all cells of a table against its best."""

    names: tuple[str, ...]
    scores: Array
    """Measured scores of the cells, fractions of 1."""
    drawn: Array32
    """Drawn scores (cells, draws), fractions of 1. The leader's is constant: only differences have a meaning."""
    size: Size = Size()
    _levels: dict[float, float] = field(default_factory=dict)

    @property
    def leader(self) -> int:
        """Place of the cell with the highest measured score; the first of several equal ones."""
        return int(self.scores.argmax())

    @property
    def errors(self) -> Array32:
        """Drawn minus measured scores (cells, draws)."""
        return (self.drawn - self.scores[:, None]).astype(np.float32)

    def near(self, within: float) -> NDArray[np.intp]:
        """Return the places of the cells that may lie within a loss of the leader, the likeliest first, without it."""
        possible = (self.scores[self.leader] - self.drawn <= within).mean(axis=1)
        possible[self.leader] = 0.0
        order = np.argsort(-possible, kind="stable")[:_MOST_POSSIBLE]
        return np.asarray(order[possible[order] >= _POSSIBLE])

    def probability(self, within: float) -> Array:
        """Return the probability that each cell lies within a loss of the best cell.

        Args:
            within: the loss, a fraction of 1.
        """
        return np.asarray((self.drawn.max(axis=0) - self.drawn <= within + _ROUNDING).mean(axis=1), dtype=np.float64)

    def level(self, within: float) -> float:
        """Return the probability from which on a cell counts as lying within a loss: at least 95 %.

        Args:
            within: the loss, a fraction of 1.
        """
        below = max((at for at in LEVELS_AT if at <= within + _SAME), default=LEVELS_AT[0])
        above = min((at for at in LEVELS_AT if at >= within - _SAME), default=LEVELS_AT[-1])
        for at in (below, above):
            if at not in self._levels:
                self._levels[at] = _level(self, at)
        low, high = self._levels[below], self._levels[above]
        share = (within - below) / (above - below) if above > below else 0.0
        return math.ceil(1000 * (low + share * (high - low)) - _ROUNDING) / 1000

    def good_enough(self, within: float) -> NDArray[np.bool_]:
        """Return which cells are known to lie within a loss of the best cell.

        Args:
            within: the loss, a fraction of 1.
        """
        probability = self.probability(within)
        if not (probability >= SURE).any():
            return np.zeros(len(self.names), dtype=np.bool_)  # without the time that the level takes
        return np.asarray(probability >= self.level(within))


@dataclass(frozen=True)
class Variation:
    """Variances of the cells' means, as arrays over cells."""

    seeds: Array
    """A of the crossed model, for each cell."""
    residual: Array
    """R of the crossed model, for each cell."""
    uncertainty: Array
    """Squares of A and R, each divided by its degrees of freedom, for each cell."""
    examples: tuple[Array, ...]
    """For each task the covariance (cells, cells) of the means over its examples, divided by their number."""
    counts: tuple[int, ...]
    """Number of examples of each task."""
    bounded: NDArray[np.bool_]
    """Whether all outcomes lie between 0 and 1, for each cell."""


def losses(cells: Mapping[str, Outcomes], size: Size = Size()) -> Losses:
    """Return the losses of some cells against the best of them.

    Args:
        cells: outcomes by the cell's name, of at least two seeds each, all on the same examples.
        size: how much is drawn.

    Raises:
        ValueError: if there is no cell, one has a single seed, or cells differ in their number of examples.
    """
    return from_variation(tuple(cells), np.asarray([cell.mean for cell in cells.values()]), variation(cells), size)


def variation(cells: Mapping[str, Outcomes]) -> Variation:
    """Return the variances of some cells' means; see ``losses``."""
    each = list(cells.values())
    if not each or min(cell.seeds for cell in each) < 2:
        raise ValueError("losses need cells of at least two seeds each")
    if len({cell.examples for cell in each}) != 1:
        raise ValueError("losses need the same examples in all cells")
    parts, counts = [cell.seed_parts for cell in each], each[0].examples
    seeds, residual = (np.asarray([sum(value for value, _ in one[place]) for one in parts]) for place in (0, 1))
    uncertainty = [sum(value * value / freedom for term in one for value, freedom in term) for one in parts]
    examples = []
    for place, count in enumerate(counts):
        means = np.stack([cell.by_example[place] for cell in each])
        examples.append(np.atleast_2d(np.cov(means)) / count / len(counts) ** 2)
    bounded = np.asarray([cell.bounded for cell in each])
    return Variation(seeds, residual, np.asarray(uncertainty), tuple(examples), counts, bounded)


def from_variation(names: tuple[str, ...], scores: Array, given: Variation, size: Size) -> Losses:
    """Return the losses of cells whose scores and variances are known.

    Args:
        names: of the cells.
        scores: of the cells, fractions of 1.
        given: variances of the scores.
        size: how much is drawn.
    """
    leader = int(scores.argmax())
    normal = np.random.default_rng(SEED).standard_normal((min(size.draws, MOST_DRAWN // len(names)), len(names)))
    normal = normal @ factor(_correlation(given, leader)).T
    each = zip(normal.T, *_from_leader(given, leader), strict=True)
    drawn = scores[:, None] + np.stack([error * _student(one, float(freedom)) for one, error, freedom in each])
    return Losses(names, scores, np.clip(drawn, -1e30, 1e30).astype(np.float32), size)


def _from_leader(given: Variation, leader: int) -> tuple[Array, Array]:
    """Return standard errors and degrees of freedom of the cells' differences from the leader, examples added.

    This is ``model.difference_parts`` of all of them at once; the leader has the standard error 0.
    """
    b, uncertainty = np.zeros(len(given.seeds)), given.uncertainty + given.uncertainty[leader]
    for found, count in zip(given.examples, given.counts, strict=True):
        difference = np.maximum(np.diag(found) + found[leader, leader] - 2 * found[leader], 0.0)
        difference += (given.bounded & given.bounded[leader]) * added(given.counts, count)
        b += difference
        uncertainty = uncertainty + difference**2 / (count - 1)
    a, r = (part + part[leader] for part in (given.seeds, given.residual))
    variance, freedom = judged(a, b, r, uncertainty)
    variance[leader] = 0.0
    return np.sqrt(variance), freedom


def added(counts: tuple[int, ...], count: int) -> float:
    """Return what the added examples contribute to the variance of a difference, for a task of ``count`` examples."""
    return DISAGREEING / len(counts) ** 3 / count**2


def _level(found: Losses, within: float) -> float:
    """Return ``Losses.level``."""
    near = found.near(within)
    noise = found.errors
    level, count = SURE, len(near)
    while count > 1:
        cells = noise[np.concatenate([[found.leader], near[:count]])]
        tables = min(found.size.tables, _MOST_TABLES // count)
        level = max(level, _level_at_the_loss(cells[:, :tables], cells[:, -found.size.against :], within))
        count //= 2
    return level


def _level_at_the_loss(errors: Array32, drawn: Array32, within: float) -> float:
    """Return the level if the first of some cells is the best and the others lie exactly at the loss.

    Args:
        errors: of the cells' scores in drawn tables (cells, tables).
        drawn: minus the measured scores (cells, draws).
        within: the loss, a fraction of 1.
    """
    scores = errors.copy()
    scores[1:] -= np.float32(within)
    highest = probabilities(scores, drawn, within)[1:].max(axis=0)
    return float(np.quantile(highest, SURE, method="higher"))


def probabilities(scores: Array32, errors: Array32, within: float) -> Array:
    """Return the probability (cells, tables) that each cell of each of many tables lies within a loss of its best.

    Args:
        scores: measured in each table (cells, tables).
        errors: draws of what true scores are above them (cells, draws).
        within: the loss, a fraction of 1.
    """
    best = np.full((scores.shape[1], errors.shape[1]), -np.inf, dtype=np.float32)
    own = np.empty_like(best)
    for score, draws in zip(scores, errors, strict=True):
        np.maximum(best, np.add(score[:, None], draws, out=own), out=best)
    best -= np.float32(within + _ROUNDING)
    inside = [
        np.count_nonzero(best <= np.add(score[:, None], draws, out=own), axis=1)
        for score, draws in zip(scores, errors, strict=True)
    ]
    return np.stack(inside) / errors.shape[1]


def _correlation(given: Variation, leader: int) -> Array:
    """Return the correlation (cells, cells) of the differences from the leader; 0 where nothing varies."""
    own = np.maximum(given.seeds - given.residual, 0.0)
    total = np.sum(given.examples, axis=0)
    covariance = total - total[:, [leader]] - total[[leader], :] + total[leader, leader] + own[leader] + np.diag(own)
    variance = np.diag(covariance).copy()
    fixed = variance <= 1e-12 * float(variance.max(initial=0.0))
    variance[fixed] = 1.0
    found = covariance / np.sqrt(variance[:, None] * variance[None, :])
    found[fixed, :] = found[:, fixed] = 0.0
    found[np.diag_indices(len(own))] = 1.0
    return np.asarray(found)


def _student(normal: Array, freedom: float) -> Array:
    """Return standard normal values as values of Student's t with the same probability below them.

    The ratio of the two is interpolated, within 0.1 %: computing a quantile for every draw takes ten times as long.
    """
    ratio = stdtrit(min(freedom, 1e9), ndtr(_KNOTS)) / _KNOTS
    return np.asarray(normal * np.interp(np.abs(normal), _KNOTS, ratio), dtype=np.float64)
