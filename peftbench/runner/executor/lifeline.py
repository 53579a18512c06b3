"""Makes a process die with its parent."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

RUNNER = "PEFTBENCH_RUNNER_PID"
"""Environment variable with the process id of the runner, for its process server."""
_PR_SET_PDEATHSIG = 1
_server: int | None = None
"""Process id of the server that this process is or was forked from; None in others."""


def own_server() -> None:
    """Note that this process is the server, for the processes that are forked from it."""
    global _server
    _server = os.getpid()


def server() -> int | None:
    """Return the process id of the server that this process was forked from, whether it lives or not."""
    return _server


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process as soon as the thread that started it has ended, however it ended (Linux).

    Args:
        parent: process id of the parent, if known. If it has ended already, this process exits at once.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def alive(pid: int) -> bool:
    """Return whether a process of this machine runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in "ZX"


def runner() -> int | None:
    """Return the process id of the runner that started this server; None if the variable is not set."""
    given = os.environ.get(RUNNER, "")
    return int(given) if given.isdigit() else None
