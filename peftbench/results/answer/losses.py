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
on, and the highest of their levels counts. Two cells have the level 95 %.

**Few errors.** If two cells are right on the same examples, their difference has no variance, although new examples
could differ. Three examples on which they disagree are added to the sum of squares, which reproduces the upper bound of
3 / I for no event among I (the rule of three, Hanley and Lippman-Hand 1983).

Reference: Hanley and Lippman-Hand 1983, JAMA 249(13):1743.
"""

from __future__ import annotations

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
    """Tables that are drawn for the level."""
    against: int = 1000
    """Draws with which each cell of these tables is judged."""


MOST_DRAWN = 1_000_000
"""Most drawn scores of all cells together; more cells than 250 have fewer draws each."""
SEED = 0
"""Seed of the draws, so that the same results give the same probabilities."""
SURE = 1 - LEVEL
"""Probability from which on a cell can be good enough."""
_POSSIBLE, _MOST_POSSIBLE = 0.005, 200
"""A cell may lie within a loss if it does, compared with the leader alone, with this probability; at most so many."""
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
        if within not in self._levels:
            self._levels[within] = _level(self, within)
        return self._levels[within]

    def good_enough(self, within: float) -> NDArray[np.bool_]:
        """Return which cells are known to lie within a loss of the best cell.

        Args:
            within: the loss, a fraction of 1.
        """
        probability = self.probability(within)
        if not (probability >= SURE).any():
            return np.zeros(len(self.names), dtype=np.bool_)
        return np.asarray(probability >= self.level(within))


def losses(cells: Mapping[str, Outcomes], size: Size = Size()) -> Losses:
    """Return the losses of some cells against the best of them.

    Args:
        cells: outcomes by the cell's name, of at least two seeds each, all on the same examples.
        size: how much is drawn.

    Raises:
        ValueError: if there is no cell, one has a single seed, or cells differ in their number of examples.
    """
    each = list(cells.values())
    if not each or min(cell.seeds for cell in each) < 2:
        raise ValueError("losses need cells of at least two seeds each")
    if len({cell.examples for cell in each}) != 1:
        raise ValueError("losses need the same examples in all cells")
    scores = np.asarray([cell.mean for cell in each])
    examples = _example_covariances(each)
    leader = int(scores.argmax())
    error, freedom = _from_leader(each, examples, leader)
    correlation = _correlation(each, examples, leader)
    drawn = _draw(scores, (error, freedom), correlation, min(size.draws, MOST_DRAWN // len(each)))
    return Losses(tuple(cells), scores, drawn, size)


def _example_covariances(cells: list[Outcomes]) -> list[Array]:
    """Return for each task the covariance (cells, cells) of the cells' means over its examples."""
    found = []
    for place, count in enumerate(cells[0].examples):
        means = np.stack([cell.by_example[place] for cell in cells])
        found.append(np.atleast_2d(np.cov(means)) / count / len(cells[0].tasks) ** 2)
    return found


def _from_leader(cells: list[Outcomes], examples: list[Array], leader: int) -> tuple[Array, Array]:
    """Return standard errors and degrees of freedom of the cells' differences from the leader, examples added.

    This is ``model.difference_parts`` of all of them at once; the leader has the standard error 0.
    """
    parts = [cell.seed_parts for cell in cells]
    a, r = (np.asarray([sum(value for value, _ in one[place]) for one in parts]) for place in (0, 1))
    own = np.asarray([sum(value * value / freedom for term in one for value, freedom in term) for one in parts])
    bounded = np.asarray([cell.bounded for cell in cells])
    counts = cells[0].examples
    b, uncertainty = np.zeros(len(cells)), own + own[leader]
    for found, count in zip(examples, counts, strict=True):
        difference = np.maximum(np.diag(found) + found[leader, leader] - 2 * found[leader], 0.0)
        difference += (bounded & bounded[leader]) * added(counts, count)
        b += difference
        uncertainty = uncertainty + difference**2 / (count - 1)
    variance, freedom = judged(a + a[leader], b, r + r[leader], uncertainty)
    variance[leader] = 0.0
    return np.sqrt(variance), freedom


def added(counts: tuple[int, ...], count: int) -> float:
    """Return what the added examples contribute to the variance of a difference, for a task of ``count`` examples."""
    return DISAGREEING / len(counts) ** 3 / count**2


def _level(found: Losses, within: float) -> float:
    """Return ``Losses.level``."""
    scores, drawn, leader = found.scores, found.drawn, found.leader
    possible = (scores[leader] - drawn <= within).mean(axis=1)
    possible[leader] = 0.0
    order = np.argsort(-possible, kind="stable")[:_MOST_POSSIBLE]
    near = order[possible[order] >= _POSSIBLE]
    noise = (drawn - scores[:, None]).astype(np.float32)
    level, count = SURE, len(near)
    while count > 1:
        cells = noise[np.concatenate([[leader], near[:count]])]
        level = max(level, _level_at_the_loss(cells[:, : found.size.tables], cells[:, -found.size.against :], within))
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
    best = np.full((scores.shape[1], drawn.shape[1]), -np.inf, dtype=np.float32)
    own = np.empty_like(best)
    for score, draws in zip(scores, drawn, strict=True):
        np.maximum(best, np.add(score[:, None], draws, out=own), out=best)
    best -= np.float32(within + _ROUNDING)
    highest = np.zeros(scores.shape[1], dtype=np.int64)
    for score, draws in zip(scores[1:], drawn[1:], strict=True):
        inside = np.count_nonzero(best <= np.add(score[:, None], draws, out=own), axis=1)
        np.maximum(highest, inside, out=highest)
    return float(np.quantile(highest / drawn.shape[1], SURE, method="higher"))


def _correlation(cells: list[Outcomes], examples: list[Array], leader: int) -> Array:
    """Return the correlation (cells, cells) of the differences from the leader; 0 where nothing varies."""
    own = np.asarray([max(0.0, sum(a for a, _ in s) - sum(r for r, _ in e)) for s, e in (c.seed_parts for c in cells)])
    total = np.sum(examples, axis=0)
    covariance = total - total[:, [leader]] - total[[leader], :] + total[leader, leader] + own[leader] + np.diag(own)
    variance = np.diag(covariance).copy()
    smallest = 1e-12 * float(variance.max(initial=0.0))
    fixed = variance <= smallest
    variance[fixed] = 1.0
    found = covariance / np.sqrt(variance[:, None] * variance[None, :])
    found[fixed, :] = found[:, fixed] = 0.0
    found[np.diag_indices(len(cells))] = 1.0
    return np.asarray(found)


def _draw(scores: Array, difference: tuple[Array, Array], correlation: Array, draws: int) -> Array32:
    """Return drawn scores (cells, draws).

    Args:
        scores: measured scores of the cells.
        difference: standard errors and degrees of freedom of their differences from the leader.
        correlation: of these differences.
        draws: how many.
    """
    normal = np.random.default_rng(SEED).standard_normal((draws, len(scores))) @ factor(correlation).T
    each = zip(normal.T, *difference, strict=True)
    drawn = scores[:, None] + np.stack([error * _student(one, float(freedom)) for one, error, freedom in each])
    return np.clip(drawn, -1e30, 1e30).astype(np.float32)


def _student(normal: Array, freedom: float) -> Array:
    """Return standard normal values as values of Student's t with the same probability below them.

    The ratio of the two is interpolated, within 0.1 %: computing a quantile for every draw takes ten times as long.
    """
    ratio = stdtrit(min(freedom, 1e9), ndtr(_KNOTS)) / _KNOTS
    return np.asarray(normal * np.interp(np.abs(normal), _KNOTS, ratio), dtype=np.float64)
