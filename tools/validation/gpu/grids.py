"""Trials of a suite, run as by ``peftbench run`` and written one by one; and functions in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

from peftbench import suite
from peftbench.models import find
from peftbench.records import Job, Status
from peftbench.runner.executor import child, lifeline, local
from peftbench.runner.prepare import Options, prepare
from tools.validation.gpu.results import Kept


@dataclass(frozen=True)
class Cells:
    """Some cells of a suite."""

    name: str
    suite: Mapping[str, Any]
    """As in a suite's file."""
    device: str
    workers: int = 1
    predicts: bool = True
    saves: bool = True
    """False for a model of many gigabytes, whose files would take longer to write than all else."""


def jobs(cells: Cells, work: Path) -> dict[str, Job]:
    """Return the possible trials by their names in the results: the group, the base, the cell, the device.

    Args:
        cells: which.
        work: a folder for the suite's file, logs and what trials save for a while.
    """
    path = work / f"{cells.name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(cells.suite), sort_keys=False))
    trials = [t for t in suite.expand(suite.load(path), cells.device) if t.unsupported is None]
    options = Options(predicts=cells.predicts)
    grid = prepare(trials, work / cells.name, cells.workers, f"peftbench run {cells.name}", options=options)
    named = {}
    for job in grid.jobs:
        seed = "" if job.trial.seed in (None, 0) else f" seed {job.trial.seed}"
        named[f"{cells.name}: {find.base_name(job.trial.base)}, {job.trial.cell}, {job.trial.device}{seed}"] = job
    if len(named) != len(grid.jobs):
        raise ValueError(f"two cells of {cells.name} have the same name")
    return named


def every(kept: Kept, part: str, groups: Sequence[Cells], work: Path, most: int) -> Iterator[str]:
    """Measure what is missing of some groups, at most so many trials at a time; one that cannot run stops no other."""
    for cells in groups:
        try:
            yield from measure(kept, part, jobs(cells, work), min(cells.workers, most), cells.saves)
        except Exception as error:
            kept.add(part, cells.name, Status.ERROR, message=traceback.format_exc()[-4000:])
            yield f"{cells.name}: {type(error).__name__}: {error}"


def measure(kept: Kept, part: str, named: Mapping[str, Job], workers: int, saves: bool = True) -> Iterator[str]:
    """Run the jobs whose results are missing, write each result at once, and yield its name.

    Args:
        kept: where results are written.
        part: the part that they belong to.
        named: jobs by name.
        workers: how many run at the same time.
        saves: whether trained weights are saved for a while, as in every trial.
    """
    done = kept.done(part)
    left = {name: job for name, job in named.items() if name not in done}
    names = {job.key: name for name, job in left.items()}
    patched = nullcontext() if saves else mock.patch.object(child, "main", without_saving)
    with patched, closing(local.run(list(left.values()), workers)) as events:
        for event in events:
            if event.result is not None:
                name = names[event.job.key]
                kept.add_trial(part, name, event.result, event.job.log)
                yield f"{name}: {event.result.row.status} {event.result.row.message or ''}".rstrip()


def without_saving(*given: Any) -> None:
    """Runs in a trial's process, in place of ``child.main``: the trial without the files of its trained weights."""
    import importlib

    # imported here, in the process of the trial
    checkpoint = importlib.import_module("peftbench.runner.checkpoint")
    size = importlib.import_module("peftbench.records.columns.size")
    checkpoint.save = lambda *_: size.SizeColumns()  # type: ignore[attr-defined]
    child.main(*given)


def until_killed(job: Job, step: int) -> Iterator[Any]:
    """Run a job whose process is killed after a step, then again to its end; yield the two results."""
    with closing(local.run([job], 1)) as events:
        process = None
        for event in events:
            process = event.process or process
            if event.step >= step and process is not None:
                os.kill(process, signal.SIGKILL)
                step, process = 2**31, None
            if event.result is not None:
                yield event.result
    with closing(local.run([job], 1)) as events:
        for event in events:
            if event.result is not None:
                yield event.result


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own that has the libraries, and return what it returns.

    Raises:
        RuntimeError: with its traceback if it fails, or if its process ends.
    """
    local.load_libraries()
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe(duplex=False)
    with tempfile.NamedTemporaryFile("r", errors="replace") as log:
        process: Any = context.Process(target=_answer, args=(function, arguments, theirs, log.name), daemon=True)
        process.start()
        theirs.close()
        try:
            failed, found = ours.recv()
        except EOFError:
            process.join(10)
            failed, found = True, f"the process of {function.__name__} ended: {process.exitcode}"
        finally:
            if process.is_alive():
                process.join(2)
            process.kill()
            process.join(10)
        if failed:
            raise RuntimeError(f"{found}\n{log.read()[-2000:]}")
        return found


def _answer(function: Callable[..., Any], arguments: Sequence[Any], channel: Connection, log: str) -> None:
    lifeline.die_with_parent(lifeline.server())
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    target = os.open(log, os.O_WRONLY)  # what libraries print, which says little if nothing fails
    os.dup2(target, 1)
    os.dup2(target, 2)
    try:
        channel.send((False, function(*arguments)))
    except BaseException:
        channel.send((True, traceback.format_exc()[-4000:]))
    channel.close()
    os._exit(0)
