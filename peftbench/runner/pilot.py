"""Measure a few steps and a few scored examples of each shape of trial, to predict how long trials take. No torch.

A shape is everything that decides a trial's time but its amounts: trials that differ in seed, learning rate or length
of training have one shape, which is measured once. A pilot is a trial like any other, with fewer steps and examples, in
a folder that is deleted; nothing of it is a result.
"""

from __future__ import annotations

import itertools
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from peftbench.methods import deployed_forms
from peftbench.models import find, size
from peftbench.records import Job, Phase, Result, Status, Task, Trial, TrialRow
from peftbench.runner import prepare
from peftbench.runner.executor import Event, local
from peftbench.runner.pilot_clock import Seen
from peftbench.runner.pilot_record import NO_STEP, NO_TIME, Measured, store, stored
from peftbench.runner.pilot_shape import shape
from peftbench.tasks import read

__all__ = ["NO_STEP", "NO_TIME", "Measured", "characters", "measure", "seconds", "shape", "store", "stored"]

STEPS, EXAMPLES = 8, 32
"""Steps and scored examples of each task of a pilot."""
_LARGE = 30_000_000
"""Parameters from which on a base model is so slow on a CPU that its pilot has fewer steps and examples."""
_FEWEST_EXAMPLES, _LATER_STEPS = 4, 2
"""Fewest scored examples of each task, and steps after the first ones, of the pilot of such a base model."""
LONGEST, SHARED = 60.0, 30.0
"""Most seconds of the pilot of a shape that one cell has, and of one that several cells share."""
_SETTING = " (timeout_seconds)"
"""What the message of a trial that was stopped goes on with: the setting, which here is the pilot's own."""
_SHORTEST = 1.0
"""Seconds that must be left for a first pilot."""
_SCALED = (Phase.TRAIN, Phase.VALIDATE, Phase.EVALUATE, Phase.RETENTION, Phase.INFERENCE, Phase.PLAN)
"""Phases that are not as long in every trial of a shape."""
_BEFORE_SCORED = tuple(phase for phase in Phase if phase not in (Phase.RETENTION, Phase.INFERENCE))
"""Phases in which a pilot that is stopped has not been scored."""


def limits(trials: Sequence[Trial]) -> dict[str, float]:
    """Return the most seconds of the pilot of each shape among some trials.

    Args:
        trials: one of each cell. A pilot is made from the first one of its shape, and is no longer than that may be.
    """
    counts = Counter(map(shape, trials))
    own = {shape(trial): trial.timeout_seconds or math.inf for trial in reversed(trials)}
    return {name: min(own[name], LONGEST if count == 1 else SHARED) for name, count in counts.items()}


def measure(
    trials: Sequence[Trial],
    observe: Callable[[Trial, Result], None],
    within: float = math.inf,
    begin: Callable[[], None] = lambda: None,
) -> dict[str, Measured]:
    """Run a pilot of each shape among some trials, one after the other.

    Args:
        trials: the trials of a grid that can run.
        observe: called with each pilot's trial and result.
        within: seconds for all pilots together, after the libraries are loaded; those for which nothing is left have
            the problem ``NO_TIME``.
        begin: called when the libraries are loaded, before the first pilot.

    Returns:
        Shape -> what it took.

    Raises:
        UserError: if base model or data are missing, as a run would.
    """
    cells: dict[str, Trial] = {}
    for trial in trials:
        cells.setdefault(trial.cell, trial)
    first = {shape(trial): trial for trial in reversed(cells.values())}
    most = limits(list(cells.values()))
    found: dict[str, Measured] = {}
    if within < math.inf:
        local.load_libraries()
    begin()
    ends, took = time.monotonic() + within, list[float]()
    with tempfile.TemporaryDirectory(prefix="peftbench-pilot-") as folder:
        for name, limit in most.items():
            trial = first[name]
            least = min(limit, statistics.median(took or [_SHORTEST]))
            job = _prepared(_shortened(trial, limit), Path(folder) / name) if _left(ends) >= least else None
            left = _left(ends)  # preparing reads data and the base, which takes a while
            if job is None or left < least:
                found[name] = Measured(problem=NO_TIME)
                continue
            job = replace(job, trial=replace(job.trial, timeout_seconds=min(left, job.trial.timeout_seconds or left)))
            began = time.monotonic()
            result, steps = _run(job)
            over = result.row.status == Status.TIMEOUT
            took += [] if over else [result.row.wall_seconds or time.monotonic() - began]
            stopped = over and job.trial.timeout_seconds == left
            known = _of(job, result, steps)
            found[name] = replace(known, problem=NO_TIME) if stopped and known.problem else known
            observe(trial, result)
    return found


def _left(ends: float) -> float:
    """Return the seconds until a moment."""
    return max(0.0, round(ends - time.monotonic(), 1)) if ends < math.inf else math.inf


def _prepared(trial: Trial, folder: Path) -> Job:
    (job,) = prepare.prepare([trial], folder, 1, "", None, prepare.Options()).jobs
    return job


def with_candidates(
    found: Mapping[str, Measured], trials: Sequence[Trial], candidates: Sequence[Trial]
) -> dict[str, Measured]:
    """Return what pilots took, also by the shapes of the candidates of a learning-rate search.

    A candidate is scored on fewer tasks than the trials of its cell, without inference cost and retention, so it has
    another shape. Its time follows from the pilot of its cell.

    Args:
        found: what the pilots of the trials took, by shape.
        trials: the trials of the grid.
        candidates: those of its search.
    """
    cells = {trial.cell: trial for trial in trials}
    more: dict[str, Measured] = {}
    for candidate in candidates:
        own = cells.get(candidate.candidate_of or "")
        measured = found.get(shape(own)) if own else None
        if measured is not None:
            more[shape(candidate)] = measured
    return {**more, **found}


def _shortened(trial: Trial, limit: float) -> Trial:
    share = _share(trial)
    examples = max(_FEWEST_EXAMPLES, round(share * EXAMPLES))
    tasks = tuple(replace(task, limit=min(task.limit or examples, examples)) for task in trial.tasks)
    training = trial.training
    if training:
        least = training.untimed_steps + _LATER_STEPS
        steps = min(training.steps or STEPS, max(STEPS, least) if share == 1 else least)
        training = replace(training, steps=steps, epochs=None, tokens=None, seconds=None)
    short = replace(trial, tasks=tasks, training=training, deployed=())
    return replace(short, timeout_seconds=limit, phase_timeouts=(), checkpoint_every_seconds=None)


def _share(trial: Trial) -> float:
    """Return the share of a pilot's usual examples that a base model can be scored on within the limit.

    A large base model on a CPU decodes for seconds per example, and its time is nearly proportional to the examples. A
    small one takes almost as long for a few as for a batch, and so does a GPU.
    """
    if trial.device != "cpu":
        return 1.0
    folder = find.cached(trial.base) or find.config_folder(trial.base)
    parameters = size.parameters(folder, find.read_config(trial.base))
    return min(1.0, _LARGE / parameters) if parameters else 1.0


def _run(job: Job) -> tuple[Result, Sequence[float]]:
    """Return a pilot's result, and when each of its steps ended.

    The process of a pilot that is stopped can send no row of its own, so its times are those that were seen from here.
    """
    seen = Seen()
    last: Event | None = None
    for event in local.run([job], 1):
        seen.note(event)
        last = event
    assert last is not None
    result = last.result
    assert result is not None
    over = result.row.status == Status.TIMEOUT
    return replace(result, row=seen.completed(result.row)) if over else result, seen.steps


def _of(job: Job, result: Result, ended: Sequence[float]) -> Measured:
    row = result.row
    if row.status == Status.UNSUPPORTED:
        return unsupported(why_not(row), row.wall_seconds or 0.0)
    if row.status != Status.OK:
        return _of_stopped(job.trial, row, ended)
    steady = [step.seconds for step in result.steps if not step.untimed]
    early = [step.seconds for step in result.steps if step.untimed]
    times = sum(step.validation_loss is not None for step in result.steps)
    validated = times * _validation_examples(job.trial, read.examples)
    return replace(
        _of_phases(job.trial, row),
        first_steps_seconds=sum(early),
        first_steps=len(early),
        step_seconds=statistics.fmean(steady) if steady else None,
        tokens_per_step=(row.nonpadding_tokens or 0) / len(result.steps) if result.steps else None,
        validation_seconds_per_example=(row.validate_seconds or 0.0) / max(1, validated),
    )


def _of_phases(trial: Trial, row: TrialRow) -> Measured:
    """Return what a pilot's phases took, apart from its steps."""
    fixed = sum(getattr(row, phase.column) or 0.0 for phase in Phase if phase not in _SCALED)
    evaluate = row.evaluate_seconds or 0.0
    parts = row.evaluate_prefill_seconds, row.evaluate_decode_seconds
    passes = evaluate if parts == (None, None) else sum(part or 0.0 for part in parts)
    return Measured(
        fixed_seconds=fixed + (row.untracked_seconds or 0.0),
        forecast_seconds=row.plan_seconds or 0.0,
        inference_seconds=row.inference_seconds or 0.0,
        scoring_seconds=evaluate - passes,
        seconds_per_character=passes / max(1, characters(trial, read.examples)),
        retention_seconds=row.retention_seconds or 0.0,
        load_seconds=row.load_seconds or 0.0,
    )


def _of_stopped(trial: Trial, row: TrialRow, ended: Sequence[float]) -> Measured:
    """Return what is known of a trial whose pilot did not end ok: its steps, and more if its scoring had ended.

    Forward passes and the rest of its scoring are not told apart, so longer scoring is predicted by its length.
    """
    why, training = why_not(row), trial.training
    gaps = [after - before for before, after in itertools.pairwise(ended)]
    first = max(1, training.untimed_steps) if training else 0
    steady = gaps[first - 1 :] if first else []
    step = statistics.median(steady or gaps) if gaps else None
    known = Measured(step_seconds=step, problem=why)
    if row.status != Status.TIMEOUT or row.phase in _BEFORE_SCORED or row.evaluate_seconds is None:
        return known
    if training and (step is None or training.validate_every):
        return known
    later = " and nothing of inference cost" if trial.inference and row.phase == Phase.RETENTION else ""
    return replace(
        _of_phases(trial, row),
        step_seconds=step,
        first_steps=min(first, len(ended)),
        first_steps_seconds=(row.train_seconds or 0.0) - sum(steady) if training else 0.0,
        incomplete=f"{why}; of that phase only what was measured until then is counted{later}",
    )


def unsupported(reason: str, seconds: float = 0.0) -> Measured:
    """Return what is known of a trial that ends unsupported, after some seconds."""
    return Measured(fixed_seconds=seconds, problem=reason, unsupported=True)


def why_not(row: TrialRow) -> str:
    """Return why a pilot did not end ok."""
    if row.status == Status.TIMEOUT:
        return f"the pilot reached its limit in phase {row.phase} ({str(row.message).partition(_SETTING)[0]})"
    return f"{row.status} in phase {row.phase}: {row.message}"


def characters(trial: Trial, reader: read.Reader) -> int:
    """Return the number of characters of the texts that a trial is scored on, which stands for their tokens."""
    return sum(
        len(e.prompt) + sum(map(len, e.choices or (e.target,)))
        for task in trial.tasks
        if task.name in trial.evaluate and not task.lm_eval
        for e in reader(task, trial.evaluation.split)
    )


def seconds(trial: Trial, found: Measured, first: bool, reader: read.Reader) -> float | None:
    """Return how long a trial will take; None if that is not known.

    Args:
        trial: the trial.
        found: what the pilot of its shape took.
        first: whether it is the first trial of its cell.
        reader: returns a split's examples.
    """
    if found.unsupported:
        return found.fixed_seconds
    if found.problem or found.scoring_seconds is None:
        return None
    total = found.fixed_seconds
    if first:
        total += found.forecast_seconds + (found.inference_seconds if trial.inference else 0.0)
    total += found.scoring_seconds + found.seconds_per_character * characters(trial, reader)
    total += found.retention_seconds if trial.retention else 0.0
    # each form is loaded and read like the trained model, and most are made from another model in memory
    forms = len(trial.deployed) - len(deployed_forms.missing(trial))
    scoring = found.scoring_seconds + found.seconds_per_character * characters(trial, reader)
    total += forms * (scoring + 2 * found.load_seconds)
    training = trial.training
    if training is None:
        return total
    if training.seconds is not None:
        return total + training.seconds
    steps = _steps(trial, found, reader)
    if steps is None or (found.step_seconds is None and steps > found.first_steps):
        return None
    if training.validate_every:
        validated = math.ceil(steps / training.validate_every) * _validation_examples(trial, reader)
        total += found.validation_seconds_per_example * validated
    early = min(1.0, steps / found.first_steps) if found.first_steps else 0.0
    later = max(0, steps - found.first_steps) * (found.step_seconds or 0.0)
    return total + early * found.first_steps_seconds + later


def _validation_examples(trial: Trial, reader: read.Reader) -> int:
    """Return the number of examples of one validation; 0 without validation."""
    if trial.training is None or not trial.training.validate_every:
        return 0
    tasks: dict[str, Task] = {task.name: task for task in trial.tasks}
    return sum(len(reader(tasks[name], "validation")) for name, _ in trial.training.data)


def _steps(trial: Trial, found: Measured, reader: read.Reader) -> int | None:
    training = trial.training
    assert training is not None
    if training.steps is not None:
        return training.steps
    if training.tokens is not None:
        return round(training.tokens / found.tokens_per_step) if found.tokens_per_step else None
    tasks: dict[str, Task] = {task.name: task for task in trial.tasks}
    count = sum(len(reader(tasks[name], "train")) for name, _ in training.data)
    return max(1, math.ceil((training.epochs or 0) * count / training.batch_size))
