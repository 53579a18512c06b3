"""What killed processes left half written in a results folder: swept when a trial has failed, and by the next run."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from peftbench.runner.executor import lifeline
from peftbench.runner.training_states import FOLDER

SAVING = ".saving"
"""Prefix of folders that a trial's process fills and removes; the process id follows."""


def sweep(folder: Path) -> None:
    """Delete the unfinished files of processes that have ended."""
    for left in (*folder.glob(f"{SAVING}-*"), *(folder / FOLDER).glob(".*")):
        pid = left.name.removeprefix(SAVING).removeprefix(".").removeprefix("-").partition("-")[0]
        if pid.isdigit() and int(pid) != os.getpid() and lifeline.alive(int(pid)):  # trials have processes of their own
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
