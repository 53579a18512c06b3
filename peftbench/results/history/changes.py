"""What a history finds: changes of level, and single nights that stand out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from peftbench.results.history.nights import Night
from peftbench.results.history.series import Series
from peftbench.results.watch.moved import Moved
from peftbench.results.watch.quantities import Quantity

Rule = Literal[
    "exact",
    "beyond tolerance",
    "change point",
    "newest nights",
    "two nights",
    "over cells",
    "change point, by the reference step",
    "newest nights, by the reference step",
]
"""The rule that found a change: see ``docs/history.md``."""


@dataclass(frozen=True)
class Change:
    """A quantity went to another level, and when."""

    base: str
    cell: str | None
    """None for a change that cells have in common."""
    quantity: Quantity
    night: int
    """Index of the first night of the new level."""
    previous: int
    """Index of the last night of the old level that was measured."""
    before: float
    """Median of the old level. Of a shift found over cells, the mean of these cells on the previous night; of a
    relative quantity their median."""
    after: float
    """The same of the new level; of a relative shift over cells the old level, moved by the cells' median change."""
    rule: Rule
    p: float | None = None
    """Probability of such a finding if nothing changed; None where any difference is a change."""
    nights: int = 1
    """How many nights of the new level there are so far."""
    in_force: bool = True
    """Whether the newest level is still on this side of the old one."""
    cells: tuple[str, ...] = ()
    """Of a common change: the cells that moved in its direction."""
    compared: int = 1
    """Of a common change: how many cells were compared."""
    part_of_common: bool = False
    """Whether the cells have this change in common, so that it is told once for all."""
    moved: tuple[Moved, ...] = ()
    """What else was different between the two nights, the likeliest cause first."""

    @property
    def difference(self) -> float:
        """New level minus old level."""
        return self.after - self.before

    @property
    def relative(self) -> float | None:
        """The difference as a share of the old level; None if that was zero."""
        return self.difference / abs(self.before) if self.before else None

    @property
    def worse(self) -> bool:
        """Whether it is for the worse."""
        if self.quantity.better == "equal":
            return True
        return (self.difference < 0) == (self.quantity.better == "higher")

    def because(self, moved: tuple[Moved, ...]) -> Change:
        """Return the change with what else was different."""
        return replace(self, moved=moved)


@dataclass(frozen=True)
class Outlier:
    """A single night that stands out between nights that agree: no change of level."""

    base: str
    cell: str
    quantity: Quantity
    night: int
    value: float
    usual: float
    """The level of the nights around it."""


@dataclass(frozen=True)
class History:
    """All that was found in a row of nights."""

    nights: tuple[Night, ...]
    notes: tuple[str, ...]
    series: tuple[Series, ...]
    changes: tuple[Change, ...]
    """What regressed first, then the rest, the newest first."""
    outliers: tuple[Outlier, ...]
    judged: int
    """Series in which a change could have been found."""
    since: int = 0
    """Index of the first night whose changes count for ``regressed``."""
    newest_lost: bool = False
    """Whether the newest night could not be read, so that it is not known whether anything regressed in it."""

    def counts(self, change: Change) -> bool:
        """Whether a change makes the history regressed: for the worse, still in force, and new enough."""
        return change.worse and change.in_force and change.night >= self.since

    @property
    def regressed(self) -> bool:
        """Whether a change for the worse is in force at the newest night and began within the nights that count."""
        return any(map(self.counts, self.changes))

    @property
    def verdict(self) -> bool | None:
        """False if regressed, True if something was judged and nothing regressed, None if nothing could be judged.

        It is None as well if the newest night could not be read.
        """
        if self.regressed:
            return False
        return True if self.judged and not self.newest_lost else None
