"""A shift that many cells have in common, between two nights, even if it is significant in no single cell.

If nothing changed, a cell's difference between two nights is as likely to be positive as negative. The signed-rank test
(Wilcoxon 1945) over the cells' differences needs no more than that: no seeds, no stored examples, and only two nights.
It takes the cells as independent of each other.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from peftbench.results.watch.findings import ALL_CELLS, Cell, Finding, Interval, Sides, finding, moved
from peftbench.results.watch.quantities import Quantity, Seed, mean

CellName = TypeVar("CellName")
LEVEL = 0.01
"""Of the test over the cells of two nights; a fifth of the level of a single cell's, as it adds to those."""
FEWEST = 6
"""Fewest cells with a difference from which a common shift can be told."""


@dataclass(frozen=True)
class CommonShift(Generic[CellName]):
    """What the cells' differences between two nights have in common."""

    median: float
    """Of the differences, new minus old."""
    mean: float
    up: tuple[CellName, ...]
    """Cells whose value rose."""
    down: tuple[CellName, ...]
    """Cells whose value fell."""
    equal: int
    """Cells with the same value on both nights; they say nothing about the direction."""
    p: float
    """Of the signed-rank test, two-sided."""

    @property
    def cells(self) -> int:
        """How many cells were compared."""
        return len(self.up) + len(self.down) + self.equal


def common_shift(differences: Mapping[CellName, float]) -> CommonShift[CellName] | None:
    """Return what differences of cells have in common; None if fewer than six cells differ at all.

    Args:
        differences: of each cell, new minus old; for quantities of different sizes relative to the old value.
    """
    moved = [value for value in differences.values() if value]
    if len(moved) < FEWEST:
        return None
    return CommonShift(
        statistics.median(differences.values()),
        statistics.fmean(differences.values()),
        tuple(cell for cell, value in differences.items() if value > 0),
        tuple(cell for cell, value in differences.items() if value < 0),
        len(differences) - len(moved),
        signed_rank(moved),
    )


Values = Mapping[Cell, tuple[Mapping[Seed, float], Mapping[Seed, float]]]


def judge(found: Mapping[Quantity, Values], tolerated: float) -> list[Finding]:
    """Return a finding over all cells for each quantity and base model whose cells have a shift in common.

    The level holds for all of these tests together (Holm).

    Args:
        found: what is compared, told as a difference: by cell, of both sides by seed; cells that a side lacks are
            passed over.
        tolerated: difference up to which nothing counts.
    """
    shifts = [each for quantity, values in found.items() for each in _shifts(quantity, values)]
    kept = significant([shift.p for shift, _ in shifts], LEVEL)
    return [
        finding
        for (shift, finding), keep in zip(shifts, kept, strict=True)
        if keep and abs(shift.median) > tolerated and shift.median * shift.mean > 0
    ]


def _shifts(quantity: Quantity, values: Values) -> list[tuple[CommonShift[str], Finding]]:
    """Return the shift of each base model's cells with its finding, were it significant."""
    by_base: dict[str, dict[str, tuple[float, float]]] = {}
    for (base, cell), (old, new) in values.items():
        one, other = mean(old), mean(new)
        if one is not None and other is not None:
            by_base.setdefault(base, {})[cell] = one, other
    found = []
    for base, cells in by_base.items():
        shift = common_shift({cell: other - one for cell, (one, other) in cells.items()})
        if shift is None:
            continue
        before, after = (statistics.fmean(each[side] for each in cells.values()) for side in (0, 1))
        sides = Sides(before, after, (len(cells), len(cells)))
        reason = f"{len(shift.down)} of {shift.cells} cells fell, {len(shift.up)} rose; seeds and examples play no part"
        verdict, rule = moved(quantity, shift.median), "shift that cells have in common, signed ranks"
        interval = Interval(shift.mean)
        told = finding((base, ALL_CELLS), quantity, verdict, rule, sides, interval, shift.p, reason)
        found.append((shift, told))
    return found


def signed_rank(moved: Sequence[float]) -> float:
    """Return the two-sided p value of the signed-rank test, exact also with ties.

    Given the sizes of the differences, each is positive or negative with probability 1/2.

    Args:
        moved: differences other than zero.
    """
    import numpy as np

    order = sorted(moved, key=abs)
    ranks: list[int] = []  # twice the mid-ranks, which are whole numbers
    for _, group in itertools.groupby(order, key=abs):
        count = sum(1 for _ in group)
        ranks += [2 * len(ranks) + count + 1] * count
    chances = np.zeros(sum(ranks) + 1)
    chances[0] = 1.0
    for rank in ranks:
        shifted = np.zeros_like(chances)
        shifted[rank:] = chances[:-rank]
        chances = (chances + shifted) / 2
    positive = sum(rank for rank, value in zip(ranks, order, strict=True) if value > 0)
    tails = chances[: positive + 1].sum(), chances[positive:].sum()
    return min(1.0, 2 * float(min(tails)))


def significant(probabilities: Sequence[float], level: float) -> list[bool]:
    """Return which of several tests are significant by Holm's method.

    Args:
        probabilities: of each test, if nothing changed.
        level: probability of any false one among them all.
    """
    from peftbench.results.crossed_effects.ranking import holm

    return [adjusted <= level for adjusted in holm(probabilities)]
