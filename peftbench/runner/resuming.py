"""Long trials continue: the state of training is saved every so often, and the next process goes on from it.

After a crash the losses are those of an unbroken trial, bit for bit on the CPU: the process loads the base model,
attaches the method and draws the data from the same seeds, and then takes over the saved state.

The processes of a trial on several devices save at the same step, each its own part; a state exists once all parts do.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftbench.measure import environment, machine, peaks
from peftbench.methods import method_of
from peftbench.records import Phase
from peftbench.records.columns.time import TimeColumns
from peftbench.records.columns.work import WorkColumns
from peftbench.records.failures import without_paths
from peftbench.results.store import files
from peftbench.runner import training_states
from peftbench.runner.state import Earlier, Run
from peftbench.training import saved_state
from peftbench.training.encoded import Encoded
from peftbench.training.loop import Course, Learner, step_batches
from peftbench.training.losses import batch_loss

_ADDED = (Phase.VALIDATE, Phase.CHECKPOINT)
"""Phases within training, whose seconds add up over the processes of a trial."""
_log = logging.getLogger("peftbench")


def resume(run: Run, learner: Learner, examples: Sequence[Encoded]) -> Course | None:
    """Bring the learner into the state that an interrupted process of this trial saved.

    A state that is damaged, or that another machine or other versions of the libraries saved, is set aside: the trial
    begins anew, since its losses would match neither environment. All processes of a trial continue, or none.

    Args:
        run: the trial.
        learner: what training begins with.
        examples: those of a step.

    Returns:
        What was done before; None if training begins.
    """
    place: Path | None = run.parallel.first(training_states.newest(run.job.scratch, run.job.key))
    if place is None:
        return None
    with run.clock.phase(Phase.RESUME):
        try:
            saved = _found(run, learner, place)
        except saved_state.Unusable as error:
            _log.warning("training begins anew: %s: %s", place.name, error)
            run.record(WorkColumns(state_not_used=without_paths(str(error))))
            if run.parallel.rank == 0:
                training_states.set_aside(run.job.scratch, run.job.key)
            return None
        run.parallel.take_up(learner, step_batches(learner, examples)[0], batch_loss)
        try:
            course = saved.restore(learner)
        except Exception:  # the learner may have changed: this process fails, the next one begins anew
            training_states.set_aside(run.job.scratch, run.job.key)
            raise
    more = saved.more
    run.earlier = Earlier(more["resumes"] + 1, more["seconds"], more["peaks"])
    for phase in (phase for phase in _ADDED if phase in more["phases"]):
        run.clock.seconds[phase] += more["phases"][phase]
    again = more["seconds"] - course.spent - sum(more["phases"].values())
    run.clock.seconds[Phase.RESUME] += again
    run.stepped = True
    run.record(WorkColumns(resumes=run.earlier.resumes), TimeColumns(earlier_processes_seconds=run.earlier.seconds))
    return course


def _found(run: Run, learner: Learner, place: Path) -> saved_state.Saved:
    """Read this process's part of a state.

    Raises:
        Unusable: if it cannot be used, or the part of another process.
    """
    parallel, saved, problem = run.parallel, None, None
    try:
        saved = saved_state.read(training_states.part(place, parallel.rank, parallel.count))
        told, here = saved.more["environment"], _environment(run)
        changed = [name for name in here if told.get(name) != here[name]]
        if changed:
            raise saved_state.Unusable(f"it was saved with other {' and '.join(changed)}")
        saved.check(learner)
    except saved_state.Unusable as error:
        problem = f"rank {parallel.rank}: {error}" if parallel.count > 1 else str(error)
    found = parallel.gathered((problem, saved.steps if saved else None))
    for each, _ in found:
        if each is not None:
            raise saved_state.Unusable(each)
    if len(set(found)) > 1:
        raise saved_state.Unusable("its parts are of different steps")
    assert saved is not None
    return saved


def keeper(run: Run, learner: Learner) -> Keeper:
    """Return what saves a trial's state; a method of another package must say what it changes after a step."""
    method = method_of(run.job.trial.method, run.job.trial.options)
    known = bool(method.progress) or not method.after_step or method.attach.startswith("peftbench.")
    every = run.job.trial.checkpoint_every_seconds if known else None
    return Keeper(run, learner, every, _environment(run) if every is not None else {})


@dataclass
class Keeper:
    """Saves the state of training whenever the given time has passed since the last time, at the end of a step.

    Of several processes the first decides when, and each saves its own part.
    """

    run: Run
    learner: Learner
    every_seconds: float | None
    """None to save nothing."""
    environment: dict[str, Any] = field(default_factory=dict)
    """What the losses depend on besides the trial's key."""
    last: float = field(default_factory=time.perf_counter)

    def __call__(self, course: Course) -> None:
        """Save the state if it is time; a disk that refuses stops no trial."""
        if self.every_seconds is None:
            return
        due = time.perf_counter() - self.last >= self.every_seconds
        if not self.run.parallel.same(float(due)):
            return
        with self.run.clock.phase(Phase.CHECKPOINT):
            try:
                self._save(course)
            except OSError as error:
                _log.warning("the state of training was not saved: %s", error)
        self.last = time.perf_counter()

    def _save(self, course: Course) -> None:
        run, parallel = self.run, self.run.parallel
        own = Path(run.job.scratch) / training_states.FOLDER / f".{machine.process_name()}-{run.job.key}"
        if parallel.rank == 0:
            shutil.rmtree(own, ignore_errors=True)
        folder: Path = parallel.first(own)
        found = parallel.gathered(self._write(training_states.part(folder, parallel.rank, parallel.count), course))
        if parallel.rank > 0:
            return
        try:
            refused = next((problem for problem in found if problem is not None), None)
            if refused is not None:
                raise OSError(refused)
            files.sync(folder)
            training_states.install(folder, run.job.scratch, run.job.key, len(course.rows))
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _write(self, folder: Path, course: Course) -> str | None:
        """Write the part of this process into a new folder; return why the disk refused, or None."""
        run, parallel = self.run, self.run.parallel
        highest = run.earlier.merged(peaks.so_far(run.job.trial.device))
        more: dict[str, Any] = {
            "environment": self.environment,
            "resumes": run.earlier.resumes,
            "seconds": run.earlier.seconds + time.perf_counter() - run.asked_at,
            "phases": {phase: run.clock.seconds[phase] for phase in _ADDED if phase in run.clock.seconds},
            "peaks": {name: size for name, size in vars(highest).items() if size is not None}
            | {"host_peak_resident_bytes": run.highest_resident()},
        }
        try:
            folder.mkdir(parents=True)
            saved_state.write(folder, self.learner, course, more)
            files.sync(folder)
        except OSError as error:
            return f"rank {parallel.rank}: {error}" if parallel.count > 1 else str(error)
        return None


def _environment(run: Run) -> dict[str, Any]:
    """Return what the losses of equal seeds depend on besides the trial's key."""
    found = json.loads(run.job.environment_json)
    git = found.get("git")
    source = None if git and not git.get("dirty") else environment.code_sha256()  # a commit says what its source is
    return {name: found.get(name) for name in ("packages", "git", "cpu", "gpus")} | {"source code": source}
