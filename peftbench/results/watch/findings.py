"""What a model finds: one frozen record for each cell and quantity."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from peftbench.results.watch.quantities import Quantity, Seed, mean

Verdict = Literal["regressed", "improved", "unchanged", "cannot tell"]
VERDICTS: tuple[Verdict, ...] = ("regressed", "improved", "cannot tell", "unchanged")
"""In the order in which they are told."""
Cell = tuple[str, str]
"""Base model and name."""
ALL_CELLS = "all cells"
"""Name in place of a cell's of what was found over all cells together."""


@dataclass(frozen=True)
class Finding:
    """What a model says about one quantity of one cell, from an old and a new night."""

    base: str
    cell: str
    """The cell's name, or ``ALL_CELLS``."""
    quantity: Quantity
    verdict: Verdict
    rule: str
    """The rule that gave the verdict, in a few words."""
    old: float | None = None
    """Mean over the seeds that are compared, in the quantity's unit; None if it was not measured."""
    new: float | None = None
    trials: tuple[int, int] = (0, 0)
    """Trials that are compared, old and new."""
    change: float | None = None
    """What is judged: of a relative quantity new / old - 1, of others new - old. For speed without the machine's part.
    """
    low: float | None = None
    """Lower end of the 95 % interval of ``change``; None if the model has none."""
    high: float | None = None
    p: float | None = None
    """p value of the test, adjusted by Holm's method over the cells; None without a test."""
    reason: str | None = None
    """Why it cannot be told, or what else should be known about the verdict."""

    @property
    def key(self) -> Cell:
        """Base model and cell."""
        return self.base, self.cell

    @property
    def judged(self) -> bool:
        """Whether there is a verdict other than "cannot tell"."""
        return self.verdict != "cannot tell"

    def because(self, reason: str) -> Finding:
        """Return the finding with a reason."""
        return replace(self, reason=reason)


@dataclass(frozen=True)
class Sides:
    """What both sides measured: means in the quantity's unit, and of how many trials."""

    old: float | None = None
    new: float | None = None
    trials: tuple[int, int] = (0, 0)

    @classmethod
    def of(cls, old: Mapping[Seed, float], new: Mapping[Seed, float]) -> Sides:
        """Return the means of values by seed."""
        return cls(mean(old), mean(new), (len(old), len(new)))


@dataclass(frozen=True)
class Interval:
    """A change with the ends of its 95 % interval; None where the model has none."""

    change: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of_logs(cls, change: float, low: float, high: float) -> Interval:
        """Return a change as a share of what it was, from logarithms of ratios."""
        return cls(*(math.expm1(min(value, 700.0)) for value in (change, low, high)))


def finding(
    cell: Cell,
    quantity: Quantity,
    verdict: Verdict,
    rule: str,
    sides: Sides,
    interval: Interval,
    p: float | None = None,
    reason: str | None = None,
) -> Finding:
    """Return the finding of a model."""
    return Finding(
        *cell,
        quantity,
        verdict,
        rule,
        sides.old,
        sides.new,
        sides.trials,
        interval.change,
        interval.low,
        interval.high,
        p,
        reason,
    )


def worse(quantity: Quantity, change: float) -> bool:
    """Return whether a change that is not zero is for the worse."""
    return quantity.better == "equal" or (change < 0) == (quantity.better == "higher")


def moved(quantity: Quantity, change: float) -> Verdict:
    """Return the verdict of a change that counts."""
    return "regressed" if worse(quantity, change) else "improved"
