"""How much memory of its node a trial reserves on a cluster: what the planner predicts, and what is not in tensors.

The planner needs torch, which the command does not import, so a process with the libraries predicts each cell before
the trials begin. Nothing is predicted while they are measured, as they may run on this machine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from peftbench.errors import UserError
from peftbench.records import Job, Trial
from peftbench.records.devices import ranks
from peftbench.records.wording import abridged
from peftbench.runner.executor import local
from peftbench.runner.executor.ray import cluster

BESIDE_BYTES = 2**30
"""Memory of a trial's process beside the tensors of a training step: Python, libraries, data. Of the trials in
``results/reference``, 98 % need less (``tests/runner/test_ray_memory.py``)."""
CELL_SECONDS = 60.0
"""Longest prediction of a cell; a model with many layers that FSDP2 divides is traced at its own depth."""
SECONDS = 300.0
"""Time after which no more cells are predicted."""
_known: dict[str, int | None] = {}
"""Bytes of tensors in a training step by what they depend on; None if they cannot be predicted."""


def reserved(jobs: Sequence[Job]) -> tuple[tuple[Job, ...], tuple[str, ...]]:
    """Return jobs with what they reserve of their node's memory, and a note about those that reserve none.

    A trial with a budget of its node's memory reserves that, one that trains nothing reserves none.
    """
    until = time.monotonic() + SECONDS
    found: dict[str, int | None] = {}
    unknown: list[str] = []
    for job in jobs:
        trial = job.trial
        if cluster.limited(job) or trial.training is None or trial.unsupported or trial.cell in found:
            continue
        tensors = 0 if trial.device == "cuda" else _tensors(job, until)  # on a GPU they are in its own memory
        found[trial.cell] = None if tensors is None else tensors + BESIDE_BYTES * ranks(trial.devices)
        if tensors is None:
            unknown.append(trial.cell)
    told = tuple(replace(job, host_bytes=found.get(job.trial.cell)) for job in jobs)
    if not unknown:
        return told, ()
    return told, (f"no memory of a node is reserved for {abridged(unknown, 3)}, as it could not be predicted",)


def _tensors(job: Job, until: float) -> int | None:
    """Return the bytes of a training step's tensors, over all processes of a trial; None if there is no prediction."""
    trial = job.trial
    assert trial.training is not None
    training = replace(trial.training, learning_rate=0.0)
    same = replace(trial, suite="", cell="", training=training, seed=0, learning_rate_source=None, candidate_of=None)
    what = repr(replace(same, named_settings=None, defaults=None))
    left = min(until - time.monotonic(), CELL_SECONDS)
    if what not in _known and left > 0:
        _known[what] = _asked(trial, job.base_folder, left)
    return _known.get(what)


def _asked(trial: Trial, folder: str, seconds: float) -> int | None:
    try:
        found: int | None = local.ask(predicted, trial, folder, seconds=seconds)
    except UserError:  # the trial's row says why
        return None
    return found


def predicted(trial: Trial, folder: str) -> int | None:
    """Return the predicted peak of a training step over all processes of a trial; None if it cannot be traced.

    Call it in a process that has imported the libraries.
    """
    from peftbench.models import dry_load
    from peftbench.planner import predict
    from peftbench.planner import ranks as planned

    try:
        with dry_load.quiet():
            found = planned.highest(trial, predict.load_config(trial.base, Path(folder)))
    except Exception:  # a model's code may do anything with tensors that have no values
        logging.getLogger("peftbench").exception("the training step cannot be traced")
        return None
    return sum(found.ranks) if found.ranks else found.peak_bytes
