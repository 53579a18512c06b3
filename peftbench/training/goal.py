"""When training ends, and where a step is in the schedule."""

from __future__ import annotations

from dataclasses import dataclass

_PARTS = 1_000_000
"""Number of schedule positions into which a budget of seconds is divided."""


@dataclass(frozen=True)
class Goal:
    """When training ends: after a number of seconds of steps, or of steps. One of the two is None."""

    seconds: float | None
    steps: int | None

    def place(self, index: int, spent: float) -> tuple[int, int]:
        """Return the position of a step (from 0) in the schedule, and the schedule's length."""
        if self.steps is not None:
            return index, self.steps
        assert self.seconds is not None
        return min(_PARTS - 1, int(_PARTS * spent / self.seconds)), _PARTS

    def reached(self, done: int, spent: float) -> bool:
        """Return whether no step is left."""
        return done >= self.steps if self.steps is not None else spent >= (self.seconds or 0.0)

    def total(self, done: int, spent: float) -> int:
        """Return the total number of steps; with a budget of seconds, an estimate from the steps done so far."""
        if self.steps is not None:
            return self.steps
        assert self.seconds is not None
        return done if spent >= self.seconds else max(done + 1, round(done * self.seconds / spent))
