"""The Pareto front of score against cost, with each cell's probability of lying on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from peftbench.results.crossed_effects.model import Array, Outcomes, parts

DRAWS = 4000
SEED = 0
"""Seed of the bootstrap, so that the same results give the same probabilities."""


def covariance(cells: Sequence[Outcomes]) -> Array:
    """Return the covariance (cells, cells) of the scores for new seeds and new examples.

    Each cell's seeds add to its own variance only. The examples are common to all cells, so their part is a full
    covariance. The matrix is positive semi-definite because both parts are: a negative variance between seeds counts as
    zero.

    Raises:
        ValueError: if the cells have different numbers of examples.
    """
    if len({cell.examples for cell in cells}) != 1:
        raise ValueError("the covariance needs the same examples in all cells")
    tasks = len(cells[0].tasks)
    total = np.zeros((len(cells), len(cells)))
    for place in range(tasks):
        means = np.stack([cell.by_example[place] for cell in cells])
        total += np.atleast_2d(np.cov(means)) / means.shape[1] / tasks**2
    own = [parts(cell) for cell in cells]
    seeds = [sum(a for a, _ in found.seeds) - sum(r for r, _ in found.residual) for found in own]
    return total + np.diag(np.maximum(seeds, 0.0))


def on_front(cells: Mapping[str, Outcomes], costs: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """Return each cell's probability of lying on the Pareto front of score and costs.

    A cell is not on the front if another one has at least its score at no higher costs, and is better in one of them.
    The probabilities are from a parametric bootstrap: scores are drawn 4,000 times from a normal distribution around
    the measured ones, with ``covariance``. Costs are taken as measured. A cell of a single seed is drawn without the
    variance between seeds.

    Args:
        cells: outcomes by the cell's name, all on the same examples.
        costs: costs by the cell's name, in the same order for each cell (for example bytes, seconds, parameters).

    Raises:
        ValueError: if a cell has no costs, or if cells differ in their number of costs or examples.
    """
    names = list(cells)
    if not names:
        return {}
    missing = [name for name in names if name not in costs]
    if missing or len({len(costs[name]) for name in names}) != 1:
        problem = f"missing for {', '.join(missing)}" if missing else "their numbers differ"
        raise ValueError(f"every cell needs the same costs: {problem}")
    paid = np.asarray([costs[name] for name in names], dtype=np.float64)
    spread = np.linalg.cholesky(covariance([cells[name] for name in names]) + 1e-18 * np.eye(len(names)))
    normal = np.random.default_rng(SEED).standard_normal((DRAWS, len(names)))
    drawn = np.asarray([cells[name].mean for name in names]) + normal @ spread.T
    no_more = np.all(paid[:, None, :] <= paid[None, :, :], axis=2)  # [a, b]: a costs no more than b
    less = np.logical_and(no_more, ~no_more.T)
    share = {}
    for place, name in enumerate(names):
        better = drawn > drawn[:, [place]]
        equal = drawn >= drawn[:, [place]]
        beaten = (better & no_more[:, place]) | (equal & less[:, place])
        share[name] = float(1 - beaten.any(axis=1).mean())
    return share
