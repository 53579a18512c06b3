"""Ties a process's life to its parent's."""

from __future__ import annotations

import ctypes
import os
import signal

RUNNER = "PEFTBENCH_RUNNER_PID"
"""Environment variable by which a runner tells its process server who it is."""
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process the moment the thread that started it is gone, however it went (Linux).

    Args:
        parent: who started it, where that is known: if it is gone already, so is this process.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def runner() -> int | None:
    """Return the process id of the runner that started this server, or None where it did not say."""
    told = os.environ.get(RUNNER, "")
    return int(told) if told.isdigit() else None
