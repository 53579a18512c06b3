"""Long trials continue: the state of training is saved every so often, and the next process goes on from it.

After a crash the losses are those of an unbroken trial, bit for bit on the CPU: the process loads the base model,
attaches the method and draws the data from the same seeds, and then takes over the saved state.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftbench.measure import machine, peaks
from peftbench.methods import method_of
from peftbench.records import Phase
from peftbench.records.columns.time import TimeColumns
from peftbench.records.columns.work import WorkColumns
from peftbench.results.store import files
from peftbench.runner import training_states
from peftbench.runner.state import Earlier, Run
from peftbench.training import saved_state
from peftbench.training.loop import Course, Learner

_ADDED = (Phase.VALIDATE, Phase.CHECKPOINT)
"""Phases within training, whose seconds add up over the processes of a trial."""
_log = logging.getLogger("peftbench")


def resume(run: Run, learner: Learner) -> Course | None:
    """Bring the learner into the state that an interrupted process of this trial saved.

    A state that is damaged, or that another machine or other versions of the libraries saved, is deleted: the trial
    begins anew, since its losses would be neither's.

    Returns:
        What was done before; None if training begins.
    """
    place = training_states.newest(run.job.scratch, run.job.key)
    if place is None:
        return None
    with run.clock.phase(Phase.RESUME):
        try:
            saved = saved_state.read(place)
            told, here = saved.more["environment"], _environment(run)
            changed = [name for name in here if told.get(name) != here[name]]
            if changed:
                raise saved_state.Unusable(f"it was saved with another {' and '.join(changed)}")
            course = saved.restore(learner)
        except saved_state.Unusable as error:
            _log.warning("training begins anew: %s: %s", place.name, error)
            training_states.discard(run.job.scratch, run.job.key)
            return None
        except Exception:  # the learner may have changed: this process fails, the next one begins anew
            training_states.discard(run.job.scratch, run.job.key)
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


def keeper(run: Run, learner: Learner) -> Keeper:
    """Return what saves a trial's state; a method of another package must say what it changes after a step."""
    method = method_of(run.job.trial.method, run.job.trial.options)
    known = bool(method.progress) or not method.after_step or method.attach.startswith("peftbench.")
    saves = known and run.job.trial.devices is None  # the state of several processes is not saved
    return Keeper(run, learner, run.job.trial.checkpoint_every_seconds if saves else None)


@dataclass
class Keeper:
    """Saves the state of training whenever the given time has passed since the last time, at the end of a step."""

    run: Run
    learner: Learner
    every_seconds: float | None
    """None to save nothing."""
    last: float = field(default_factory=time.perf_counter)

    def __call__(self, course: Course) -> None:
        """Save the state if it is time; a disk that refuses stops no trial."""
        if self.every_seconds is None or time.perf_counter() - self.last < self.every_seconds:
            return
        with self.run.clock.phase(Phase.CHECKPOINT):
            try:
                self._save(course)
            except OSError as error:
                _log.warning("the state of training was not saved: %s", error)
        self.last = time.perf_counter()

    def _save(self, course: Course) -> None:
        run, learner = self.run, self.learner
        folder = Path(run.job.scratch) / training_states.FOLDER / f".{machine.process_name()}-{run.job.key}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        highest = run.earlier.merged(peaks.so_far(run.job.trial.device))
        more: dict[str, Any] = {
            "environment": _environment(run),
            "resumes": run.earlier.resumes,
            "seconds": run.earlier.seconds + time.perf_counter() - run.asked_at,
            "phases": {phase: run.clock.seconds[phase] for phase in _ADDED if phase in run.clock.seconds},
            "peaks": {name: size for name, size in vars(highest).items() if size is not None},
        }
        try:
            saved_state.write(folder, learner, course, more)
            training_states.install(folder, run.job.scratch, run.job.key, len(course.rows))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        files.sync(folder.parent)


def _environment(run: Run) -> dict[str, Any]:
    """Return what the losses of equal seeds depend on besides the trial's key."""
    found = json.loads(run.job.environment_json)
    return {name: found.get(name) for name in ("packages", "git", "cpu", "gpus")}
