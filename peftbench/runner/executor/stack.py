"""Where a trial that reaches its time limit is: its process prints its stack to the log, even from within C code."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

ASK = signal.SIGUSR1
"""Has a trial's process print its stack: ``faulthandler`` does so without Python's help."""
_WAIT_SECONDS = 2.0
_FRAME = re.compile(r'Current thread [^\n]*:\n  File "([^"]*)", line (\d+) in (\S+)\n')


def innermost(pid: int, log: str | None) -> str | None:
    """Have a process print its stack to its log, and return the innermost frame in words.

    Args:
        pid: the process, which goes on.
        log: its log.

    Returns:
        ``"loop.py, line 7, in step"``; None if there is no log, or the process prints nothing in two seconds.
    """
    place = Path(log) if log else None
    if place is None or not place.is_file():
        return None
    before = place.stat().st_size
    try:
        os.kill(pid, ASK)
    except ProcessLookupError:
        return None
    until = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < until:
        found = _FRAME.search(place.read_bytes()[before:].decode(errors="replace"))
        if found:
            return f"{Path(found[1]).name}, line {found[2]}, in {found[3]}"
        time.sleep(0.02)
    return None
