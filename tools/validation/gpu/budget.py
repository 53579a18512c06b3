"""The order of the parts, the seconds of each, and what happens when they are over."""

from __future__ import annotations

import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

LEAST = 8.0
"""Seconds under which no part is begun: a process alone needs about as long."""


class Over(BaseException):
    """The seconds of a part are over. No error: what handles those must not handle this."""


@dataclass(frozen=True)
class Part:
    """One part: it yields after each cell, and measures only what is missing."""

    name: str
    seconds: float
    """At most so many in the first pass, of 540."""
    measure: Callable[[], Iterator[Any]]


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """End what runs in the context after so many seconds, by ``Over``."""

    def over(*_: Any) -> None:
        raise Over

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def spend(parts: Sequence[Part], seconds: float, tell: Callable[[str], None]) -> list[str]:
    """Measure the parts in order, each within its limit; then, with what is left, what was cut off.

    A part that fails is told, and the next one begins.

    Args:
        parts: in the order of their worth.
        seconds: for all of them.
        tell: called with what happened.

    Returns:
        The names of the parts that are not complete.
    """
    began = time.perf_counter()
    share = min(1.0, seconds / 540)
    waiting: list[str] = []
    for again in (False, True):
        for part in parts:
            if again and part.name not in waiting:
                continue
            left = seconds - (time.perf_counter() - began)
            if left < LEAST:
                waiting = list(dict.fromkeys([*waiting, part.name]))
                continue
            complete = _one(part, left if again else min(left, part.seconds * share), tell)
            waiting = [name for name in waiting if name != part.name] + ([] if complete else [part.name])
    return waiting


def _one(part: Part, seconds: float, tell: Callable[[str], None]) -> bool:
    """Measure one part; return whether all of it was measured."""
    began = time.perf_counter()
    found = part.measure()
    complete = False
    try:
        with limited(seconds):
            for _ in found:
                pass
            complete = True
    except Over:
        tell(f"{part.name}: its {seconds:.0f} s are over")
    except Exception:
        tell(f"{part.name} failed:\n{traceback.format_exc()}")
    finally:
        found.close()  # type: ignore[attr-defined]
    tell(f"{part.name}: {time.perf_counter() - began:.1f} s, {'complete' if complete else 'not complete'}")
    return complete
