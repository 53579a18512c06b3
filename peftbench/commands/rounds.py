"""The rounds of a run: every cell's first seed runs before any second."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from peftbench.records import Job
from peftbench.records.wording import plural

if TYPE_CHECKING:
    from peftbench.runner.executor import Event
    from peftbench.runner.prepare import Grid


class Rounds:
    """Follows a run seed by seed, and says which seed runs now.

    Args:
        grid: what is run.
        first: returns what is printed when every cell has its first seed and others follow; None for nothing.
    """

    def __init__(self, grid: Grid, first: Callable[[], str] | None = None) -> None:
        self._grid, self._first = grid, first
        possible = [job for job in grid.pending if job.trial.unsupported is None]
        self._trials = Counter(map(grid.place, possible))
        self._left = Counter(self._trials)
        self._begun: set[int] = set()

    def now(self, job: Job) -> str:
        """Return ``seed 1 of 3``; empty where all trials have the same seed, or none."""
        several = len(self._grid.seeds) > 1
        return f"seed {self._grid.place(job) + 1} of {len(self._grid.seeds)}" if several else ""

    def begins(self, event: Event) -> str:
        """Return a line about the round that begins with an event; empty if it does not begin one."""
        place = self._grid.place(event.job)
        if event.job.trial.unsupported or place in self._begun or len(self._grid.seeds) < 2:
            return ""
        self._begun.add(place)
        seed = self._grid.seeds[place]
        return f"{self.now(event.job)} (seed {seed}): {plural(self._trials[place], 'trial')}"

    def ends(self, event: Event) -> str:
        """Return what to print after an event: once every cell has its first seed, what is known by then."""
        if event.result is None or event.job.trial.unsupported:
            return ""
        place = self._grid.place(event.job)
        self._left[place] -= 1
        done = place == 0 and not self._left[0] and sum(self._left.values()) > 0
        return self._first() if done and self._first else ""
