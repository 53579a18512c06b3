"""Why a process ended that sent no result: a signal, the kernel as memory ran out, or its own last words."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

from peftbench.measure import cgroups
from peftbench.records import Status, failures
from peftbench.runner.executor import lifeline, stack

_SERVER_LOST = 255
"""What multiprocessing says of a process whose exit code is not known, as the server is gone."""
_CRASHES = tuple(-s for s in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL))
"""Exit codes of crashes in C code, at which ``faulthandler`` prints the stack."""
_explained = 0
"""Kills by the kernel, as ``kernel_oom_kills`` counts them, of which the last was taken for the end of a trial."""


def cause(process: Any, kernel_kills: int, server: int | None, log: str | None) -> tuple[Status, str, tuple[str, ...]]:
    """Return the status, the message and the stack of a trial of which a process has ended without a result.

    Args:
        process: the process, which was waited for.
        kernel_kills: ``kernel_oom_kills()`` before it was started.
        server: the process server that started it, which it ends with.
        log: the file that it printed to.
    """
    code = process.exitcode
    if code == -signal.SIGKILL and _by_kernel(kernel_kills):
        return Status.OOM, "the kernel killed the process: out of memory", ()
    if code == _SERVER_LOST and (server is None or not lifeline.alive(server)):
        return Status.KILLED, "the process server was killed, and the trial with it", ()
    frames = stack.fatal(log) if code in _CRASHES else ()
    said = "" if code == -signal.SIGKILL else _last_words(log)  # a killed process knows nothing of its death
    last = f" at {frames[0]}" if frames else said
    how = f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
    status = Status.KILLED if code is not None and code < 0 else Status.ERROR
    if failures.ended_out_of_memory(said):
        status, last = Status.OOM, said
    return status, f"the trial's process ended with {how}{last}", frames


def _by_kernel(before: int) -> bool:
    """Return whether the kernel has killed more than ``before`` processes, besides those that explain other deaths."""
    global _explained
    known = max(before, _explained)
    if kernel_oom_kills() <= known:
        return False
    _explained = known + 1
    return True


def kill(process: Any) -> bool:
    """Kill a process if it runs; return whether it seemed to. It may be gone already, with its server."""
    if process.pid is None or not process.is_alive():
        return False
    with suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)
    return True


def _last_words(name: str | None) -> str:
    """Return the last line of a process's log before the stack of a crash: the error, if it failed to start."""
    log = Path(name) if name else None
    text = log.read_text(errors="replace") if log and log.is_file() else ""
    before, crash, _ = text.rpartition("Fatal Python error: ")
    lines = (before.strip() or text.strip() if crash else text.strip()).splitlines()
    return f": {lines[-1][:200]}" if lines else ""


def kernel_oom_kills() -> int:
    """Return how many processes the kernel has killed because memory ran out; 0 if it is not known.

    Counted are those of this process's control group, in which its trials are, too. Without one, those of the machine.
    Whom the kernel killed is not known: if another program of the group, or a second process of another trial, runs out
    of memory while someone kills a trial, that trial is recorded as out of memory by mistake.
    """
    own = cgroups.out_of_memory_kills()
    if own is not None:
        return own
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)
