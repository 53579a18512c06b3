"""How many seeds, or examples, it would take until a cell is known to be good enough."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from peftbench.results.answer.losses import Array, Size, Variation, from_variation, probabilities, variation
from peftbench.results.crossed_effects.model import Outcomes
from peftbench.results.crossed_effects.planning import POWER

MOST_SEEDS = 100
"""Largest number of seeds that is considered."""
FEW_SEEDS = 10
"""Seeds with which more examples are considered, if no number of seeds is enough."""
MOST_TIMES = 64
"""Largest multiple of today's examples that is considered."""
_CELLS = 60
"""Only so many of the best cells enter the calculation."""
_SIZE = Size(1000, 300, 500)


@dataclass(frozen=True)
class Needed:
    """What would decide, with a probability of ``POWER`` if today's estimates are true."""

    seeds: int | None
    """Seeds of every cell; None if nothing that is considered decides."""
    examples: int | None
    """Test examples of all tasks together, if no number of seeds is enough with those of today; else None."""
    seeds_now: int
    """The fewest of any cell."""
    examples_now: int


def needed(cells: Mapping[str, Outcomes], candidates: Collection[str], within: float) -> Needed:
    """Return the seeds and examples at which one of some cells would be known to be good enough.

    Tables are drawn with the measured scores as the true ones, the spread between seeds as estimated (for the
    candidates their mean), and the number of seeds in question, and decided as real ones are.

    Args:
        cells: outcomes of all cells, of at least two seeds each.
        candidates: names of those of them that could be the answer.
        within: the tolerated loss, a fraction of 1.
    """
    names = sorted(cells, key=lambda name: -cells[name].mean)[:_CELLS]
    chosen = {name: cells[name] for name in names}
    scores = np.asarray([cell.mean for cell in chosen.values()])
    places = [place for place, name in enumerate(names) if name in candidates]
    known = _Known(scores, variation(chosen), np.asarray([cell.seeds for cell in chosen.values()]), places)
    now, examples = min(cell.seeds for cell in cells.values()), sum(next(iter(cells.values())).examples)

    def decides(seeds: int, times: int = 1) -> bool:
        return bool(places) and _power(known, within, seeds, times) >= POWER

    if decides(MOST_SEEDS):
        return Needed(_fewest(now, MOST_SEEDS, decides), None, now, examples)
    times = 2
    while times <= MOST_TIMES:
        if decides(FEW_SEEDS, times):
            seeds = _fewest(now - 1, FEW_SEEDS, lambda count, times=times: decides(count, times))  # type: ignore[misc]
            return Needed(seeds, times * examples, now, examples)
        times *= 2
    return Needed(None, None, now, examples)


@dataclass(frozen=True)
class _Known:
    """What today's results say about the cells, the best first."""

    scores: Array
    variation: Variation
    seeds: Array
    """Seeds of each cell."""
    candidates: list[int]
    """Places of the cells that could be the answer."""


def _fewest(below: int, enough: int, decides: object) -> int:
    """Return the fewest seeds that decide, more than ``below`` and at least two."""
    assert callable(decides)
    low, high = max(2, below + 1), max(2, below + 1, enough)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle + 1, high)
    return low


def _power(known: _Known, within: float, seeds: int, times: int) -> float:
    """Return the probability that any candidate is called good enough, with other numbers of seeds and examples."""
    found = from_variation(
        tuple(map(str, range(len(known.scores)))),
        known.scores,
        _with(known, seeds, times),
        _SIZE,
    )
    near = [found.leader, *found.near(within)]
    wanted = [place for place, cell in enumerate(near) if cell in known.candidates]
    if not wanted:
        return 0.0
    errors = found.errors[near]
    scores = (known.scores[near, None] + errors[:, : _SIZE.tables]).astype(np.float32)
    highest = probabilities(scores, errors[:, -_SIZE.against :], within)[wanted].max(axis=0)
    return float((highest >= found.level(within)).mean())


def _with(known: _Known, seeds: int, times: int) -> Variation:
    """Return the variances with other numbers of seeds and ``times`` as many examples."""
    given = known.variation
    spread = (given.seeds - given.residual) * known.seeds
    spread[known.candidates] = spread[known.candidates].mean()
    spread = np.maximum(spread, 0.0)
    residual = given.residual * known.seeds / seeds / times
    a = spread / seeds + residual
    counts = tuple(times * count for count in given.counts)
    tasks = len(counts)
    examples = tuple(
        (found + np.diag(np.maximum(-np.diag(found), (residual * times - given.residual) / tasks))) / times
        for found in given.examples
    )
    uncertainty = a**2 / (seeds - 1) + residual**2 / ((seeds - 1) * max(1, sum(counts) - tasks))
    return replace(given, seeds=a, residual=residual, uncertainty=uncertainty, examples=examples, counts=counts)
