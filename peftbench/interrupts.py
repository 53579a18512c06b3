"""Ctrl-C, SIGTERM and SIGHUP: the first one ends a command tidily, a second one at once.

A terminal that closes, ``timeout`` and some launchers send a signal twice within an instant: that counts as one.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SAME_SECONDS = 0.25
"""Signals that follow the first one so soon are the same request."""


class Stopped(KeyboardInterrupt):
    """The first signal. A ``KeyboardInterrupt``, so that nothing that catches errors catches it."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _State:
    first: int | None = None
    """The first signal of this command; None if there was none."""
    at: float = 0.0
    deferred: int = 0
    """How many ``deferred`` blocks the main thread is in."""


@contextmanager
def handled(restores: bool) -> Iterator[None]:
    """Handle the signals within a command. One that is ignored stays so: ``nohup`` and background jobs ask for that.

    Args:
        restores: whether the former handlers come back afterwards. If not, signals during the interpreter's exit do not
            print a traceback.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.first, _State.deferred = None, 0
    before: dict[int, Any] = {}
    for number in map(int, SIGNALS):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, _receive)
    try:
        yield
    finally:
        if restores:
            _State.first = None  # what this process does next was not asked to stop
            for number, handler in before.items():
                signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Let the first signal wait until the block has ended, so that a result that has arrived is stored whole.

    Raises:
        Stopped: at the end, if there was a signal in it or before it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _State.deferred += 1
    try:
        yield
    finally:
        _State.deferred -= 1
        if _State.first is not None and not _State.deferred:
            raise Stopped(_State.first)


@contextmanager
def blocked() -> Iterator[None]:
    """Keep the signals from this thread for an instant, and from a process that is started in it for good."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore() -> None:
    """Ignore the signals in this process, which ends with another one."""
    for number in map(int, SIGNALS):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def message(stop: KeyboardInterrupt) -> tuple[str, int]:
    """Return what is printed after the first signal, and the exit code by convention: 128 and the signal's number."""
    number = stop.number if isinstance(stop, Stopped) else int(signal.SIGINT)
    how = "interrupted" if number == signal.SIGINT else f"stopped by {signal.Signals(number).name}"
    return f"{how}; finished trials are kept, the same command continues", 128 + number


def _receive(number: int, _: object) -> None:
    now = time.monotonic()
    if _State.first is None:
        _State.first, _State.at = number, now
        if not _State.deferred:
            raise Stopped(number)
    elif now - _State.at > _SAME_SECONDS:
        os.write(2, b"peftbench: stopped at once; finished trials are kept, the same command continues\n")
        os._exit(128 + number)  # its processes end with it
