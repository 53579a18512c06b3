"""What a worker of Ray does: run one trial with the local executor, and pass on what happens.

So a trial has the same process of its own, forked from a server with the libraries, the same limits and the same
statuses as without Ray. The server lives as long as Ray's worker, which runs one trial at a time.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.measure import environment
from peftbench.records import Job, Result, Status
from peftbench.results import cache as kept
from peftbench.runner import leftovers, training_states
from peftbench.runner.executor import local
from peftbench.runner.executor.ray import inputs
from peftbench.runner.executor.ray.inputs import Named
from peftbench.version import __version__

STEP_SECONDS = 0.5
"""Least time between two messages about a trial's steps."""
LOG_BYTES = 2**20
"""Most of a log's end that is sent, in bytes."""
PIECE_BYTES = 32 * 2**20
"""Largest piece of a kept adapter's file in one message, in bytes."""
MARK = ".ray-folder"
"""File in a results folder by whose content a node knows that it has the same folder, through a shared file system."""


@dataclass(frozen=True)
class Order:
    """A trial as it is sent to a node, with what a node must know to run it as the command's machine would."""

    job: Job
    inputs: Named
    mark: str
    """Content of the results folder's mark."""
    environment: Mapping[str, str | None]
    """Environment variables that decide how trials run; None for those that are not set."""
    checks_key: bool = False
    """Whether the trial reads something from the hub, so that only its key tells whether the node has the same."""


Message = tuple[str, Any]
"""What a worker yields, by its first part. ``here``: the id of its node and the time there. ``refused``: what the node
cannot run (trials with these data by their hash; all if it is empty), and why. ``missing``: the ``Source`` that must be
sent. ``event``: phase, step, steps and loss. ``log``: its end. ``files``: sizes of a kept adapter's files in bytes, by
name. ``adapter``: one's name and the next piece of it. ``result``: the ``Result`` and the time there; it comes last."""


def work(version: str, code: str, payload: bytes, sent: Mapping[str, Any]) -> Iterator[Message]:
    """Run a trial on this node; the body of a task of Ray.

    Args:
        version: peftbench's version on the command's machine.
        code: the hash of its source.
        payload: an ``Order``, pickled, which only the same version can read.
        sent: inputs that are sent, as ``inputs.located`` has them.
    """
    import ray

    yield "here", (ray.get_runtime_context().get_node_id(), time.monotonic())
    if (version, code) != (__version__, environment.code_sha256()):
        other = "the same version from another source" if version == __version__ else __version__
        why = f"the command has peftbench {version}, and it has {other}: install the same on every machine"
        yield "refused", ("", why)
        return
    order: Order = pickle.loads(payload)
    _set(order.environment)
    with suppress(PermissionError):  # Ray's workers are nicer than all other processes, which would slow down trials
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    try:
        job = inputs.located(order.job, order.inputs, sent, ray.get)
    except inputs.Missing as missing:
        yield "missing", missing.source
        return
    problem = _other_data(job) if order.checks_key else None
    if problem:
        yield "refused", (job.data_sha256, problem)
        return
    shared = _shares(Path(job.scratch), order.mark)
    job = _placed(job, shared)
    leftovers.sweep(Path(job.scratch))
    yield from _run(job, shared)


def _set(variables: Mapping[str, str | None]) -> None:
    """Set environment variables as on the command's machine, before the process server starts and takes them over."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _other_data(job: Job) -> str | None:
    """Return why a trial would not read the same texts here; None if it does."""
    try:
        key = _key(job)
    except UserError as error:
        return str(error)
    if key == job.key:
        return None
    return "what it has of the trial's datasets on the hub is not what the command has: give their revision"


_keys: dict[str, str] = {}


def _key(job: Job) -> str:
    from peftbench.runner import prepare

    if job.key not in _keys:
        _keys[job.key] = prepare.Inputs().key(job.trial)
    return _keys[job.key]


def _shares(folder: Path, mark: str) -> bool:
    """Return whether the results folder of the command is at the same path here."""
    with suppress(OSError):
        return (folder / MARK).read_text() == mark
    return False


def _placed(job: Job, shared: bool) -> Job:
    """Return the job with this machine's environment, and folders of this machine unless the results folder is here."""
    gpu = os.environ.get("CUDA_VISIBLE_DEVICES") if job.trial.device == "cuda" else None
    told = json.loads(job.environment_json)
    here = {**_environment(gpu), **{name: told[name] for name in ("command",) if name in told}}
    job = replace(job, environment_json=json.dumps(here, sort_keys=True), visible_devices=gpu)
    if shared:
        return job
    scratch = kept.folder() / "ray" / "running"
    (scratch / "logs").mkdir(parents=True, exist_ok=True)
    _sweep_states(scratch, job.key)
    adapter = str(scratch / "adapters" / job.key) if job.adapter_folder else None
    log = str(scratch / "logs" / f"{job.key}.log") if job.log else None
    return replace(job, scratch=str(scratch), adapter_folder=adapter, log=log)


@cache
def _environment(gpu: str | None) -> dict[str, Any]:
    return environment.describe(gpu)


def _sweep_states(scratch: Path, key: str) -> None:
    """Delete old states of training of trials that went on elsewhere."""
    oldest = time.time() - leftovers.ABANDONED_SECONDS
    for state in (scratch / training_states.FOLDER).glob("[!.]*.*"):
        with suppress(OSError):
            if state.name.partition(".")[0] != key and state.stat().st_mtime < oldest:
                shutil.rmtree(state, ignore_errors=True)


def _run(job: Job, shared: bool) -> Iterator[Message]:
    """Run the trial and yield what happens; its steps only every so often, so that telling them costs nothing."""
    told = 0.0
    for event in local.run([job], 1):
        if event.result is not None:
            yield from () if shared else _files(job, event.result)
            yield "result", (event.result, time.monotonic())
            return
        now = time.monotonic()
        if event.step and event.step != event.steps and now - told < STEP_SECONDS:
            continue
        told = now if event.step else told
        yield "event", (event.phase, event.step, event.steps, event.loss)


def _files(job: Job, result: Result) -> Iterator[Message]:
    """Yield a trial's files on a machine that does not have the results folder, then delete them."""
    status = Status(result.row.status)
    log = Path(job.log) if job.log else None
    if log and log.is_file():
        if status is not Status.OK:
            yield "log", log.read_bytes()[-LOG_BYTES:]
        log.unlink()
    adapter = Path(job.adapter_folder) if job.adapter_folder else None
    if adapter and adapter.is_dir():
        files = {path.relative_to(adapter).as_posix(): path for path in adapter.rglob("*") if path.is_file()}
        yield "files", {name: path.stat().st_size for name, path in files.items()}
        for name, path in files.items():
            with path.open("rb") as file:
                yield "adapter", (name, file.read(PIECE_BYTES))  # of an empty file too
                while piece := file.read(PIECE_BYTES):
                    yield "adapter", (name, piece)
        shutil.rmtree(adapter, ignore_errors=True)
    if status.final:
        training_states.discard(job.scratch, job.key)
