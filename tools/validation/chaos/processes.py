"""The processes of a run: its server, its trials, and whatever is left of it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

MARK = "PEFTBENCH_CHAOS"
"""Environment variable by which every process below a run of the storm is recognised, whoever its parent is now."""
_PATIENCE_SECONDS = 600.0
"""How long processes may take to end: so long that only one which never ends is an orphan, however busy the machine."""


def children(pid: int) -> list[int]:
    """Return the processes that the main thread of a process started; none if it has ended."""
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (OSError, ValueError):
        return []


def server(runner: int) -> int | None:
    """Return the process server of a runner, or None."""
    return next((pid for pid in children(runner) if b"forkserver" in _read(pid, "cmdline")), None)


def trials(runner: int) -> list[int]:
    """Return the processes that a runner's server has forked."""
    found = server(runner)
    return [] if found is None else children(found)


def marked(value: str) -> list[int]:
    """Return the running processes whose environment has ``MARK`` with this value."""
    wanted = f"{MARK}={value}".encode()
    found = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in found if wanted in _read(pid, "environ").split(b"\0") and _runs(pid)]


def handles_signals(pid: int) -> bool:
    """Return whether a process handles SIGTERM: before that it is Python that starts, and no command yet."""
    found = [line for line in _read(pid, "status").splitlines() if line.startswith(b"SigCgt:")]
    return bool(found) and bool(int(found[0].split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def left_after_end(value: str) -> list[int]:
    """Wait until no process with this mark runs; return those that never end."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while (alive := marked(value)) and time.monotonic() < until:
        time.sleep(0.05)
    return alive


def _runs(pid: int) -> bool:
    return _read(pid, "stat").rpartition(b")")[2].split()[:1] not in ([], [b"Z"], [b"X"])


def _read(pid: int, name: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
