"""The Pareto front of score against cost, with each cell's probability of lying on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from peftbench.results.crossed_effects.model import Array, Outcomes, parts

DRAWS = 4000
SEED = 0
"""Seed of the bootstrap, so that the same results give the same probabilities."""
_SINGULAR = 1e-9
"""A covariance whose smallest eigenvalue is less than this share of the largest is treated as singular."""
_ROUNDING = 1e-9
"""Drawn scores that differ by less than this are equal, as those of cells with the same outcomes are."""


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


def factor(matrix: Array) -> Array:
    """Return F with F F^T equal to a positive semi-definite matrix (n, n).

    Cells with equal outcomes, or more cells than examples, make a covariance singular, for which Cholesky's
    decomposition fails or depends on rounding. F is then the symmetric square root, from eigenvalues of which those
    that rounding made negative count as zero.
    """
    values, vectors = np.linalg.eigh(matrix)
    if values[0] > _SINGULAR * values[-1]:
        return np.asarray(np.linalg.cholesky(matrix + 1e-18 * np.eye(len(matrix))), dtype=np.float64)
    root: Array = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return root


def on_front(cells: Mapping[str, Outcomes], costs: Mapping[str, float]) -> dict[str, float]:
    """Return each cell's probability of lying on the Pareto front of score and cost.

    A cell is not on the front if another one has at least its score at no higher cost, and is better in one of them.
    The probabilities are from a parametric bootstrap: scores are drawn 4,000 times from a normal distribution around
    the measured ones, with ``covariance``. Costs are taken as measured. A cell of a single seed is drawn without the
    variance between seeds.

    Args:
        cells: outcomes by the cell's name, all on the same examples.
        costs: cost by the cell's name, for example bytes or seconds.

    Raises:
        ValueError: if a cell has no cost, a cost is not finite, or cells differ in their number of examples.
    """
    names = list(cells)
    if not names:
        return {}
    missing = [name for name in names if name not in costs]
    if missing:
        raise ValueError(f"every cell needs a cost: missing for {', '.join(missing)}")
    paid = np.asarray([costs[name] for name in names], dtype=np.float64)
    if not np.isfinite(paid).all():
        raise ValueError("costs must be finite numbers")
    spread = factor(covariance([cells[name] for name in names]))
    normal = np.random.default_rng(SEED).standard_normal((DRAWS, len(names)))
    drawn = np.asarray([cells[name].mean for name in names]) + normal @ spread.T
    order = np.argsort(paid, kind="stable")
    highest = np.maximum.accumulate(drawn[:, order], axis=1)  # among the cells up to each place in the order of costs
    cheaper = np.searchsorted(paid[order], paid, side="left")  # number of cells that cost less
    no_dearer = np.searchsorted(paid[order], paid, side="right")
    beaten = highest[:, no_dearer - 1] > drawn + _ROUNDING
    beaten |= (highest[:, cheaper - 1] >= drawn - _ROUNDING) & (cheaper > 0)
    share = 1 - beaten.mean(axis=0)
    return {name: float(each) for name, each in zip(names, share, strict=True)}
