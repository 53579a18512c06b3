"""The times of a pilot as its parent sees them, for one that is stopped: its own process can send none. No torch."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field, replace

from peftbench.measure import environment
from peftbench.records import Phase, TrialRow
from peftbench.runner.executor import Event


@dataclass
class Seen:
    """What the events of one trial told so far."""

    steps: list[float] = field(default_factory=list)
    """When each training step ended."""
    seconds: dict[Phase, float] = field(default_factory=lambda: defaultdict(float))
    """By phase, until the last event. A phase lasts until the next one is announced."""
    _phase: Phase | None = None
    _since: float = 0.0
    _trains_from: float | None = None
    _process: int | None = None
    _waited: dict[str, float] | None = None
    """By thread, when training began."""
    _waiting: float | None = None

    def note(self, event: Event) -> None:
        """Take note of an event, now."""
        now = time.perf_counter()
        if self._phase is not None:
            self.seconds[self._phase] += now - self._since
        self._phase, self._since, self._process = event.phase, now, event.process or self._process
        if event.result is not None:
            return
        if event.steps:
            self.steps.append(now)
            waited = environment.waiting_by_thread(self._process) if self._process else None
            self._waiting = environment.waited(self._waited, waited)
        elif event.phase is Phase.TRAIN and self._trains_from is None:
            self._trains_from = now
            self._waited = environment.waiting_by_thread(self._process) if self._process else None

    def completed(self, row: TrialRow) -> TrialRow:
        """Return a row with the time of each phase that had begun: of training, until its last step ended."""
        known = {phase.column: took for phase, took in self.seconds.items() if phase is not Phase.TRAIN}
        if self.steps and self._trains_from is not None:
            known["train_seconds"] = self.steps[-1] - self._trains_from
        if self._waiting is not None:
            known["train_waiting_seconds"] = self._waiting
        return replace(row, **known)  # type: ignore[arg-type]
