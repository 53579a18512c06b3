"""Wall time and energy by phase. Each reading waits for the device to finish first."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from peftbench.records.phase import Phase


class Clock:
    """Adds up seconds per phase on a monotonic clock.

    Args:
        synchronize: called before each reading, so that queued device work counts for the phase that queued it.
        announce: called with each phase as it begins.

    Attributes:
        seconds: by phase. The time of a phase inside another one counts for both.
        joules: by phase, likewise; a phase is absent if its energy is not known.
        energy: returns the joules used since some fixed moment, None if they are not known.
    """

    def __init__(
        self, synchronize: Callable[[], None] = lambda: None, announce: Callable[[Phase], None] = lambda _: None
    ) -> None:
        self.seconds: dict[Phase, float] = defaultdict(float)
        self.joules: dict[Phase, float] = defaultdict(float)
        self.energy: Callable[[], float | None] = lambda: None
        self._synchronize = synchronize
        self._announce = announce
        self._open: list[Phase] = []

    def now(self) -> float:
        """Return seconds on a monotonic clock, after the device has finished its queued work."""
        self._synchronize()
        return time.perf_counter()

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Add the time spent in the context to a phase, also if it ends in an exception."""
        self._announce(name)
        self._open.append(name)
        start, before = self.now(), self.energy()
        try:
            yield
        except BaseException:  # do not wait for a broken device; the phase that failed stays announced
            self.seconds[name] += time.perf_counter() - start
            raise
        self.seconds[name] += self.now() - start
        after = self.energy()
        if before is not None and after is not None:
            self.joules[name] += after - before
        self._open.pop()
        if self._open:
            self._announce(self._open[-1])
