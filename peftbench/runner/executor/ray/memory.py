"""How much memory of its node a trial reserves on a cluster: what the planner predicts, and what is not in tensors.

On a GPU that is the base model as it is read, and what is offloaded.

The planner needs torch, which the command does not import, so a process with the libraries predicts each cell before
the trials begin. Nothing is predicted while they are measured, as they may run on this machine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.errors import UserError
from peftbench.records import Job, Trial
from peftbench.records.devices import ranks
from peftbench.records.memory import Category
from peftbench.records.wording import abridged
from peftbench.runner.executor import local
from peftbench.runner.executor.ray import cluster

if TYPE_CHECKING:
    from peftbench.planner.records import Prediction

BESIDE_BYTES = 2**30
"""Memory of a trial's process beside the tensors of a training step: Python, libraries, data. Of the trials in
``results/reference`` on the CPU, 98 % need less (``tests/runner/test_ray_memory.py``)."""
CELL_SECONDS = 60.0
"""Longest prediction of a cell; a model with many layers that FSDP2 divides is traced at its own depth."""
SECONDS = 300.0
"""Time after which no more cells are predicted."""
_WEIGHTS = (Category.BASE_WEIGHTS, Category.QUANTIZATION_STATE, Category.ADAPTER)
_STATE = (Category.GRADIENTS, Category.OPTIMIZER)
_known: dict[str, int | None] = {}
"""Bytes of a trial's tensors in its node's memory by what they depend on; None if they cannot be predicted."""


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
        tensors = _tensors(job, until)
        found[trial.cell] = None if tensors is None else tensors + BESIDE_BYTES * ranks(trial.devices)
        if tensors is None:
            unknown.append(trial.cell)
    told = tuple(replace(job, host_bytes=found.get(job.trial.cell)) for job in jobs)
    if not unknown:
        return told, ()
    return told, (
        f"memory could not be predicted, or not in time, for {abridged(unknown, 3)}: these reserve none of a node",
    )


def _tensors(job: Job, until: float) -> int | None:
    """Return the bytes of a trial's tensors in its node's memory, over all processes; None if not predicted."""
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
    """Return the predicted peak of tensors in a node's memory, over all processes of a trial; None if not traceable.

    On the CPU that is the training step's, on a GPU what waits on the host; under FSDP2 it can be what is read. Call it
    in a process that has imported the libraries.
    """
    from peftbench.methods import strategies
    from peftbench.models import dry_load
    from peftbench.planner import predict
    from peftbench.planner import ranks as planned

    quantized = bool(strategies.why_everywhere(trial.precision))
    assert trial.training is not None
    piecewise = trial.device == "cuda" and quantized and not _divided(trial)  # read to the GPU piece by piece
    if piecewise and trial.training.offload == "none":
        return 0
    try:
        with dry_load.quiet():
            found = planned.highest(_traceable(trial), predict.load_config(trial.base, Path(folder)))
    except Exception:  # a model's code may do anything with tensors that have no values
        logging.getLogger("peftbench").exception("the training step cannot be traced")
        return None
    return found.offloaded_bytes if piecewise else _on_host(trial, found, quantized)


def _divided(trial: Trial) -> bool:
    return trial.devices is not None and trial.devices.strategy == "fsdp2"


def _traceable(trial: Trial) -> Trial:
    """Return a trial with the same tensors; where they are is not traced."""
    if trial.devices is None or trial.device != "cuda":
        return trial
    return replace(trial, devices=replace(trial.devices, offload="none"))


def _on_host(trial: Trial, found: Prediction, quantized: bool) -> int:
    """Return the most bytes of a trial's tensors in its node's memory, over all processes.

    Args:
        trial: the trial.
        found: the prediction of its step.
        quantized: whether each rank under FSDP2 reads the base model.
    """
    count, base = ranks(trial.devices), found.base_weights_bytes
    on_cpu = trial.device != "cuda"
    step = sum(found.ranks) if found.ranks else found.needed_bytes
    if trial.devices is None or not _divided(trial):
        # on a GPU each process reads it on the host, then moves it
        return step if on_cpu else max(base * count, found.offloaded_bytes)
    shards = count * sum(found.categories.get(name, 0) for name in _WEIGHTS)
    state = count * sum(found.categories.get(name, 0) for name in _STATE)
    read = base * count if quantized else max(base, shards)  # shards add up to master weights in full fine-tuning
    on_host = on_cpu or trial.devices.offload == "cpu"
    training = step if on_cpu else shards + state
    return max(read + shards, training) if on_host else read
