"""Alternative rules that were rejected, compared on the same simulated tables for ``crossed_simulation``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy.special import stdtrit

from peftbench.results.crossed_effects.model import Outcomes, Parts, difference_parts
from peftbench.results.crossed_effects.ranking import holm
from peftbench.results.crossed_effects.student import p_value
from tools.validation.crossed_simulation import SPREADS, UNEQUAL, Design, draw, null

Judged = tuple[float, float]
"""Standard error and degrees of freedom."""


def _taken(one: Outcomes, other: Outcomes, _: Sequence[Outcomes]) -> Judged:
    return _of(difference_parts(one, other))


def _seeds_paired(one: Outcomes, other: Outcomes, _: Sequence[Outcomes]) -> Judged:
    return _of(difference_parts(one, other, paired=True))


def _of(parts: Parts) -> Judged:
    return math.sqrt(parts.variance), parts.degrees_of_freedom


def _cut(at_zero: bool) -> Callable[[Outcomes, Outcomes, Sequence[Outcomes]], Judged]:
    def rule(one: Outcomes, other: Outcomes, _: Sequence[Outcomes]) -> Judged:
        parts = difference_parts(one, other)
        a, b, r = parts.sums
        variance = max(a, b + (max(a - r, 0) if at_zero else a - r))
        return math.sqrt(variance), variance**2 * parts.degrees_of_freedom / parts.variance**2

    return rule


def _pooled(one: Outcomes, other: Outcomes, cells: Sequence[Outcomes]) -> Judged:
    """One standard deviation between seeds for all methods of the table."""
    _, b, r = difference_parts(one, other).sums
    a = 2 * sum(cell.seed_parts[0][0][0] for cell in cells) / len(cells)
    variance = max(a, b, a + b - r)
    freedom = len(cells) * (one.seeds - 1)
    return math.sqrt(variance), variance**2 / (a**2 / freedom + b**2 / (sum(one.examples) - 1))


def _over_seeds(one: Outcomes, other: Outcomes, _: Sequence[Outcomes]) -> Judged:
    return math.sqrt((other.by_seed - one.by_seed).var(ddof=1) / one.seeds), one.seeds - 1


def _over_examples(one: Outcomes, other: Outcomes, _: Sequence[Outcomes]) -> Judged:
    means = other.by_example[0] - one.by_example[0]
    return math.sqrt(means.var(ddof=1) / len(means)), len(means) - 1


RULES: Mapping[str, Callable[[Outcomes, Outcomes, Sequence[Outcomes]], Judged]] = {
    "taken": _taken,
    "negative part between seeds set to zero": _cut(at_zero=True),
    "negative part between seeds kept": _cut(at_zero=False),
    "seeds paired": _seeds_paired,
    "one spread between seeds for all methods": _pooled,
    "t over seeds, paired": _over_seeds,
    "t over examples, paired": _over_examples,
}
"""Name -> rule; the first is the rule in use."""


def cases() -> dict[str, Design]:
    """Return the designs on which the rules are compared."""
    found = {f"{spread:g}": null(7, spread, examples=1319) for spread in SPREADS}
    return {**found, "unequal": Design(null(7, 0).truth, UNEQUAL, examples=1319)}


def tried(draws: int) -> list[dict[str, object]]:
    """Return for each rule and design the coverage of a difference, and the share of tables with a false positive."""
    rows: list[dict[str, object]] = []
    for case, design in cases().items():
        generator = np.random.default_rng(2)
        counts = {name: np.zeros(2) for name in RULES}
        for _ in range(draws):
            cells = list(draw(design, generator).values())
            for name, rule in RULES.items():
                p, covered = [], False
                for place, cell in enumerate(cells[1:]):
                    error, freedom = rule(cells[0], cell, cells)
                    value = cell.mean - cells[0].mean
                    p.append(p_value(value, error, freedom))
                    if place == 0:
                        covered = abs(value) <= stdtrit(freedom, 0.975) * error
                counts[name] += covered, min(holm(p)) < 0.05
        rows += [
            {"rule": name, "case": case, "covered": float(count[0]) / draws, "false": float(count[1]) / draws}
            for name, count in counts.items()
        ]
    return rows
