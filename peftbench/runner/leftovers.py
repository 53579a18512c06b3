"""What killed processes left half written in a results folder: swept when a trial has failed, and by the next run."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from peftbench.measure import machine
from peftbench.runner.executor import lifeline
from peftbench.runner.training_states import FOLDER

SAVING = ".saving"
"""Prefix of folders that a trial's process fills and removes; the name of the process follows."""
RECEIVING = ".receiving"
"""Prefix of folders that the command itself fills, with files that nodes of a cluster send."""
ABANDONED_SECONDS = 2 * 86_400.0
"""Age from which on an unfinished file of another machine is deleted. Whether its process lives cannot be known here,
and none takes so long between two changes."""


def sweep(folder: Path) -> None:
    """Delete the unfinished files of trials' processes that have ended; of other machines, those that are old."""
    _sweep((*folder.glob(f"{SAVING}-*"), *(folder / FOLDER).glob(".*")))


def sweep_before_run(folder: Path) -> None:
    """Delete what commands that have ended left half received too, which a run may not do once it receives itself."""
    sweep(folder)
    _sweep(folder.glob(f"{RECEIVING}-*"))


def _sweep(found: Iterable[Path]) -> None:
    for left in found:
        process = left.name.removeprefix(SAVING).removeprefix(RECEIVING).removeprefix(".").removeprefix("-")
        process = process.partition("-")[0]
        if _in_use(left, process):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _in_use(left: Path, process: str) -> bool:
    """Return whether the process that is filling a file or folder lives, as far as that is known."""
    on, _, pid = process.rpartition(".")  # without a machine, of an older peftbench
    if on not in ("", machine.name()):
        with suppress(FileNotFoundError):
            return time.time() - left.stat().st_mtime < ABANDONED_SECONDS
        return False
    return pid.isdigit() and int(pid) != os.getpid() and lifeline.alive(int(pid))  # trials have their own processes
