"""Where a trial's process is, or was: the stack that ``faulthandler`` prints to its log, even from within C code."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

ASK = signal.SIGUSR1
"""Has a trial's process print its stack: ``faulthandler`` does so without Python's help."""
MOST = 40
"""Frames that a row has."""
_WAIT_SECONDS = 2.0
_THREAD = re.compile(r'Current thread [^\n]*:\n(?:  Garbage-collecting\n)?((?:  File "[^\n]*\n)+)')
_FRAME = re.compile(r'  File "([^"]*)", line (\d+) in (.+)')


def asked(pid: int, log: str | None) -> tuple[str, ...]:
    """Have a process print its stack to its log, and return the frames of its main thread, the innermost first.

    Args:
        pid: the process, which goes on.
        log: its log.

    Returns:
        Frames like ``"loop.py, line 7, in step"``; none if there is no log, or the process prints nothing in time.
    """
    place = Path(log) if log else None
    if place is None or not place.is_file():
        return ()
    before = place.stat().st_size
    try:
        os.kill(pid, ASK)
    except ProcessLookupError:
        return ()
    until, found = time.monotonic() + _WAIT_SECONDS, _frames(b"")
    while time.monotonic() < until:
        last, found = found, _frames(place.read_bytes()[before:])
        if found and found == last:  # nothing was added since the last look
            break
        time.sleep(0.02)
    return found


def fatal(log: str | None) -> tuple[str, ...]:
    """Return the frames that a process printed as it crashed in C code, the innermost first; none if there are none."""
    place = Path(log) if log else None
    if place is None or not place.is_file():
        return ()
    _, found, printed = place.read_bytes().rpartition(b"Fatal Python error: ")
    return _frames(printed) if found else ()


def _frames(printed: bytes) -> tuple[str, ...]:
    found = _THREAD.search(printed.decode(errors="replace"))
    frames = _FRAME.findall(found[1]) if found else []
    return tuple(f"{Path(file).name}, line {line}, in {name}" for file, line, name in frames[:MOST])
