"""The files of a trial that ran on a machine without the results folder: its log, and a kept adapter."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftbench.measure import machine
from peftbench.records import Job, Result, Status
from peftbench.runner.leftovers import RECEIVING

_log = logging.getLogger("peftbench")


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


def finish(job: Job, result: Result, announced: Mapping[str, int] | None) -> None:
    """Give the adapter of a trial that ended its place, if it is whole; else say that it is not kept.

    Args:
        job: the trial's.
        result: how it ended.
        announced: size in bytes of each file that its node was about to send; None if it sends none.
    """
    made = _unfinished(job)
    if not announced or not job.adapter_folder or result.row.status != Status.OK:
        discard(job)
        return
    if _sizes(made) != announced:
        discard(job)
        _log.warning(
            "peftbench: warning: the adapter of %s (seed %d) did not arrive whole and is not kept; "
            "the same command runs the trial again",
            job.trial.cell,
            job.trial.seed,
        )
        return
    place = Path(job.adapter_folder)
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    made.rename(place)


def _sizes(folder: Path) -> dict[str, int]:
    """Return the size of each file of a folder in bytes, by its path in it."""
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}


def discard(job: Job) -> None:
    """Delete what came of an adapter before the trial was lost."""
    shutil.rmtree(_unfinished(job), ignore_errors=True)


def _unfinished(job: Job) -> Path:
    return Path(job.scratch) / f"{RECEIVING}-{machine.process_name()}-{job.key}"
