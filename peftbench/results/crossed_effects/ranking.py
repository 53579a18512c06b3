"""Comparisons of all cells of a table with its reference and its best, with Holm's correction for their number."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from peftbench.results.crossed_effects.model import Estimate, Outcomes, difference, score
from peftbench.results.crossed_effects.student import LEVEL


@dataclass(frozen=True)
class Comparison:
    """A cell compared with another."""

    cell: str
    against: str
    estimate: Estimate
    """Score of ``cell`` minus that of ``against``; interval and p are of this pair alone, without correction."""
    adjusted_p: float
    """Adjusted by Holm's method, over all comparisons with the same cell ``against``."""

    @property
    def significant(self) -> bool:
        """Whether the difference is significant after correction."""
        return self.adjusted_p < LEVEL


@dataclass(frozen=True)
class Ranking:
    """Scores of a table's cells and which differences between them are significant."""

    scores: Mapping[str, Estimate]
    best: str
    """The cell with the highest score; the first of several equal ones."""
    with_best: tuple[Comparison, ...]
    with_reference: tuple[Comparison, ...]
    """Empty if there is no reference."""

    @property
    def ties(self) -> tuple[str, ...]:
        """The best cell and the cells not significantly different from it, in the order of the table."""
        lower = {found.cell for found in self.with_best if found.significant}
        return tuple(cell for cell in self.scores if cell not in lower)

    @property
    def significantly_best(self) -> str | None:
        """The cell that is significantly better than all others on new seeds and examples; None if there is none."""
        alone = len(self.scores) > 1 and self.ties == (self.best,)
        meant = all(found.estimate.scope == "new seeds and new examples" for found in self.with_best)
        return self.best if alone and meant else None


def rank(cells: Mapping[str, Outcomes], reference: str | None = None) -> Ranking:
    """Return every cell's score and its comparison with the best and with the reference.

    ``significantly_best`` holds although the best is selected by its score: it must differ significantly from each
    other cell, so also from the truly best one, and Holm's correction is over all of these comparisons.

    Args:
        cells: outcomes by the cell's name, all on the same examples in the same order.
        reference: the name of one of them; None for no comparison with a reference.

    Raises:
        ValueError: if there is no cell, the reference is not among them, or examples differ in number.
    """
    if not cells:
        raise ValueError("no cells to rank")
    if reference is not None and reference not in cells:
        raise ValueError(f"the reference {reference!r} is not among the cells: {', '.join(cells)}")
    best = max(cells, key=lambda name: cells[name].mean)
    return Ranking(
        {name: score(found) for name, found in cells.items()},
        best,
        _against(cells, best),
        () if reference is None else _against(cells, reference),
    )


def _against(cells: Mapping[str, Outcomes], other: str) -> tuple[Comparison, ...]:
    found = {name: difference(cells[other], one) for name, one in cells.items() if name != other}
    adjusted = holm([estimate.p for estimate in found.values() if estimate.p is not None])
    return tuple(
        Comparison(name, other, estimate, p) for (name, estimate), p in zip(found.items(), adjusted, strict=True)
    )


def holm(p_values: Iterable[float] | Sequence[float]) -> list[float]:
    """Return p values adjusted so that the probability of any false positive among them stays below the level.

    Reference: Holm 1979, Scandinavian Journal of Statistics 6(2).
    """
    given = np.asarray(list(p_values), dtype=np.float64)
    order = np.argsort(given, kind="stable")
    stepped = np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1))
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted.tolist()
