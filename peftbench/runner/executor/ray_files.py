"""The files of a trial that ran on a machine without the results folder: its log, and a kept adapter."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from peftbench.measure import machine
from peftbench.records import Job, Result, Status
from peftbench.runner.leftovers import SAVING


def receive(job: Job, kind: str, content: Any) -> None:
    """Take a message with a log's end, or with a piece of an adapter's file, which appears when the trial has ended."""
    if kind == "log":
        if job.log:
            Path(job.log).write_bytes(content)
        return
    name, piece = content
    path = _unfinished(job) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(piece)


def finish(job: Job, result: Result) -> None:
    """Give the adapter of a trial that ended its place."""
    made = _unfinished(job)
    if not made.is_dir():
        return
    if job.adapter_folder and result.row.status == Status.OK:
        place = Path(job.adapter_folder)
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        made.rename(place)
    else:
        discard(job)


def discard(job: Job) -> None:
    """Delete what came of an adapter before the trial was lost."""
    shutil.rmtree(_unfinished(job), ignore_errors=True)


def _unfinished(job: Job) -> Path:
    return Path(job.scratch) / f"{SAVING}-{machine.process_name()}-{job.key}"
