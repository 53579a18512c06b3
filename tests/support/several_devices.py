"""Trials on one device and on several: run, and compared."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from peftbench.records import Job, Result, Status
from peftbench.records.devices import Place
from peftbench.runner import trial
from peftbench.runner.executor import local

SECONDS = 240
"""How long to wait for the ranks of a trial."""
TOLERANCE = 1e-5
"""Largest relative difference of losses and gradient norms in fp32: sums are added up in another order."""


def finished(jobs):
    """Run jobs, and return their results in order."""
    found = {e.job.key: e.result for e in local.run(jobs, workers=1) if e.result is not None}
    return [found[job.key] for job in jobs]


def _serve(job: Job, place: Place, report: Callable[..., None], told: Any) -> None:
    torch.set_num_threads(1)  # a forked process must not enter a parallel region
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("peftbench").addHandler(handler)
    told.send((trial.run(job, time.perf_counter(), lambda _: None, report, place=place), said))
    os._exit(0)


def forked(job: Job, reports: dict[int, Callable[..., None]]) -> list[tuple[Result, list[str]] | None]:
    """Run a trial in forks of this process, which take over what a test has replaced in it.

    Args:
        job: the trial.
        reports: what a rank calls after each step, with the step first; it may end its process.

    Returns:
        Each rank's result and warnings; None for one that died.
    """
    context = multiprocessing.get_context("fork")
    meeting = Path(tempfile.mkdtemp(dir=job.scratch)) / "meeting"  # two trials must not meet at one file
    pipes, processes = [], []
    for rank in range(job.trial.devices.count):  # type: ignore[union-attr]
        ours, theirs = context.Pipe(duplex=False)
        given = (job, Place(rank, str(meeting)), reports.get(rank, lambda *_: None), theirs)
        processes.append(context.Process(target=_serve, args=given))
        processes[-1].start()
        theirs.close()
        pipes.append(ours)
    found: list[tuple[Result, list[str]] | None] = []
    try:
        for rank, pipe in enumerate(pipes):
            assert pipe.poll(SECONDS), f"rank {rank} is still busy"
            try:
                found.append(pipe.recv())
            except EOFError:
                found.append(None)
        return found
    finally:
        for process in processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
            process.join()


def same_training(one, other, tolerance=TOLERANCE):
    """Check that two results are of the same training, up to rounding."""
    assert other.row.status == Status.OK, other.row.message
    assert other.row.batches_sha256 == one.row.batches_sha256
    for a, b in zip(one.steps, other.steps, strict=True):
        assert b.loss == pytest.approx(a.loss, rel=tolerance)
        assert b.gradient_norm == pytest.approx(a.gradient_norm, rel=10 * tolerance)
        assert (a.validation_loss is None) == (b.validation_loss is None)
        if a.validation_loss is not None:
            assert b.validation_loss == pytest.approx(a.validation_loss, rel=tolerance)
        assert (a.loss_tokens, a.nonpadding_tokens) == (b.loss_tokens, b.nonpadding_tokens)
    for name in ("trainable_parameters", "stored_parameters", "checkpoint_bytes", "moved_tensors", "stalled_tensors"):
        assert getattr(one.row, name) == getattr(other.row, name), name
    assert [s.value for s in one.scores] == pytest.approx([s.value for s in other.scores], abs=0.13)
