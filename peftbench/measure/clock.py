"""Wall time by phase, with the device waited for at both ends."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Clock:
    """Adds up seconds per phase on a monotonic clock.

    Args:
        synchronize: called before each reading, so that queued device work counts where it was asked for.
        announce: called with a phase's name when it begins.

    Attributes:
        seconds: by phase; an inner phase's are in those of the outer one too.
        joules: by phase, likewise; phases of which they are not known are absent.
        energy: returns the joules used since some moment, None where they are not known.
    """

    def __init__(
        self, synchronize: Callable[[], None] = lambda: None, announce: Callable[[str], None] = lambda _: None
    ) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.joules: dict[str, float] = defaultdict(float)
        self.energy: Callable[[], float | None] = lambda: None
        self._synchronize = synchronize
        self._announce = announce
        self._open: list[str] = []

    def now(self) -> float:
        """Return seconds on a monotonic clock, after the device has finished what it was asked."""
        self._synchronize()
        return time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent in the context to a phase, also when it ends in an exception."""
        self._announce(name)
        self._open.append(name)
        start, before = self.now(), self.energy()
        try:
            yield
        except BaseException:  # a broken device must not be waited for; the phase that failed stays announced
            self.seconds[name] += time.perf_counter() - start
            raise
        self.seconds[name] += self.now() - start
        after = self.energy()
        if before is not None and after is not None:
            self.joules[name] += after - before
        self._open.pop()
        if self._open:
            self._announce(self._open[-1])
