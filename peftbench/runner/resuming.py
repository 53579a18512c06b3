"""Long trials continue: the state of training is saved every so often, and the next process goes on from it.

After a crash the losses are those of an unbroken trial, bit for bit on the CPU: the process loads the base model,
attaches the method and draws the data from the same seeds, and then takes over the saved state.
"""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftbench.measure import peaks
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
    place = training_states.path_of(run.job.scratch, run.job.key)
    if not place.is_file():
        return None
    with run.clock.phase(Phase.RESUME):
        try:
            saved = saved_state.read(place)
            told = saved.more["environment"]
            if told != _environment(run):
                changed = [name for name, value in _environment(run).items() if told.get(name) != value]
                raise saved_state.Unusable(f"it was saved with another {' and '.join(changed) or 'environment'}")
            course = saved.restore(learner)
        except saved_state.Unusable as error:
            _log.warning("training begins anew: %s: %s", place.name, error)
            place.unlink()
            return None
    more = saved.more
    run.earlier = Earlier(more["resumes"] + 1, more["seconds"], more["peaks"])
    for phase in _ADDED:
        run.clock.seconds[phase] += more["phases"][phase]
    again = more["seconds"] - course.spent - sum(more["phases"].values())
    run.clock.seconds[Phase.RESUME] += again
    run.stepped = True
    run.record(WorkColumns(resumes=run.earlier.resumes), TimeColumns(earlier_processes_seconds=run.earlier.seconds))
    return course


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
        run = self.run
        place = training_states.path_of(run.job.scratch, run.job.key)
        place.parent.mkdir(exist_ok=True)
        temporary = place.with_name(f".{os.getpid()}-{place.name}")
        highest = run.earlier.merged(peaks.so_far(run.job.trial.device))
        more: dict[str, Any] = {
            "environment": _environment(run),
            "resumes": run.earlier.resumes,
            "seconds": run.earlier.seconds + time.perf_counter() - run.asked_at,
            "phases": {phase: run.clock.seconds[phase] for phase in _ADDED},
            "peaks": {name: size for name, size in vars(highest).items() if size is not None},
        }
        try:
            saved_state.write(temporary, self.learner, course, more)
            with open(temporary, "rb") as written:
                os.fsync(written.fileno())
            os.replace(temporary, place)
        except Exception:
            temporary.unlink(missing_ok=True)
            raise
        files.sync(Path(place.parent))


def _environment(run: Run) -> dict[str, Any]:
    """Return what the losses of equal seeds depend on besides the trial's key."""
    found = json.loads(run.job.environment_json)
    return {name: found.get(name) for name in ("packages", "cpu", "gpus")}
