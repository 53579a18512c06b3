"""How long a trial's process may run, as a whole and in each phase."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from peftbench.records import Phase, Trial

KEY = "timeout_seconds"
"""The suite's key, as messages name it."""


@dataclass
class Limits:
    """The limits of one process, and what it has used of them. Seconds are of the monotonic ``time.perf_counter``."""

    trial: Trial
    began: float
    """When the process was asked for."""
    phase: Phase = Phase.START
    since: float = 0.0
    """When the phase began, or was returned to."""
    spent: dict[Phase, float] = field(default_factory=dict)
    """Seconds of the earlier times of each phase, without the phases inside it."""

    def __post_init__(self) -> None:
        """Begin the first phase."""
        self.since = self.began

    def enter(self, phase: Phase) -> None:
        """Note that a phase begins, or is returned to from a phase inside it."""
        now = time.perf_counter()
        self.spent[self.phase] = self.spent.get(self.phase, 0.0) + now - self.since
        self.phase, self.since = phase, now

    @property
    def deadline(self) -> float | None:
        """When the trial will be stopped if its phase does not end; None without a limit."""
        ends = [moment for moment, _ in self._ends()]
        return min(ends) if ends else None

    def reached(self) -> str | None:
        """Return which limit is reached, as a message has it; None if none is."""
        now = time.perf_counter()
        return next((words for moment, words in self._ends() if now >= moment), None)

    def _ends(self) -> list[tuple[float, str]]:
        whole, part = self.trial.timeout_seconds, dict(self.trial.phase_timeouts).get(self.phase)
        found = []
        if part is not None:
            left = part - self.spent.get(self.phase, 0.0)
            found.append((self.since + left, f"stopped after {part:g} s of {self.phase} ({KEY}.{self.phase})"))
        if whole is not None:
            found.append((self.began + whole, f"stopped after {whole:g} s ({KEY})"))
        return found
