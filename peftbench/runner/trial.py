"""Run one trial: load, attach, train, account, check, save, evaluate. A failure is a result too."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from peftbench.errors import Diverged, DoesNotFit, Unsupported, UserError
from peftbench.evaluation import retention, scoring
from peftbench.measure import environment, peaks, watch
from peftbench.measure.clock import Clock
from peftbench.methods import METHODS, base_facts, context_length, method_of
from peftbench.models import causality, find
from peftbench.models.load import Loaded, left_out_columns, load
from peftbench.models.precision import effective
from peftbench.models.tokenizer import load_tokenizer
from peftbench.planner.predict import load_config
from peftbench.records import Example, Job, Phase, Result, Status, failures
from peftbench.records.attention import AUTO
from peftbench.records.columns.environment import EnvironmentColumns
from peftbench.records.columns.memory import MemoryColumns
from peftbench.records.columns.size import SizeColumns
from peftbench.records.columns.time import TimeColumns
from peftbench.records.devices import Place
from peftbench.runner import deploying, devices_of_trial, divided_base, evaluating, tuning
from peftbench.runner import rows as runner_rows
from peftbench.runner.preflight import chats
from peftbench.runner.state import Run
from peftbench.tasks import chat, fewshot
from peftbench.training import loop
from peftbench.training.encoded import learned_ends


def run(
    job: Job,
    asked_at: float,
    announce: Callable[[Phase], None],
    report: loop.Progress,
    keep: Callable[[Result], None] = lambda _: None,
    place: Place | None = None,
) -> Result:
    """Run a trial to its end and return its result, however it ends.

    Args:
        job: the trial and what it needs.
        asked_at: ``time.perf_counter()`` when the process was requested.
        announce: called with each phase as it begins.
        report: called after each training step.
        keep: called with a result that counts if the process is killed after it: all but the score after deployment.
        place: which of the trial's processes this is; None if it is the only one.
    """
    started = time.perf_counter()

    def enter(phase: Phase) -> None:
        state.phase = phase
        announce(phase)

    clock = Clock(torch.cuda.synchronize if job.trial.device == "cuda" else lambda: None, enter)
    state = Run(job, clock, report, runner_rows.row(job, Status.ERROR), asked_at)
    state.keep = lambda: keep(_result(state, Status.OK, None))
    state.record(
        EnvironmentColumns(started_at=_now(), load_average=environment.load_average()),
        TimeColumns(start_seconds=started - asked_at),
    )
    status, message = _attempt(state, place)
    return _result(state, status, message)


def _attempt(run: Run, place: Place | None) -> tuple[Status, str | None]:
    """Run the trial; return how it ended, and why if it is not ok."""
    try:
        if place is not None:
            devices_of_trial.join(run, place)
        found = _phases(run)
        run.record(*devices_of_trial.columns(run))
        return found
    except Unsupported as error:
        return Status.UNSUPPORTED, str(error)
    except Diverged as error:
        return Status.DIVERGED, str(error)
    except DoesNotFit as error:
        return Status.SKIPPED, str(error)
    except UserError as error:
        _log_failure()
        return Status.ERROR, str(error)
    except Exception as error:
        _log_failure()
        refusal = _refusal(run, error)
        if refusal is not None:
            return Status.UNSUPPORTED, str(refusal)
        return (Status.OOM if failures.out_of_memory(error) else Status.ERROR), failures.words(error)


def _refusal(run: Run, error: Exception) -> Unsupported | None:
    """Return the refusal of a library to attach the method or to take its first step; None for any other failure."""
    if run.stepped or run.phase not in (Phase.CHECK, Phase.ATTACH, Phase.TRAIN):
        return None
    method = method_of(run.job.trial.method, run.job.trial.options)
    return failures.refusal(error, f"{method.name} {method.variant}".strip(), method.attach.partition(".")[0])


def _log_failure() -> None:
    logging.getLogger("peftbench").exception("the trial failed")


def _phases(run: Run) -> tuple[Status, str | None]:
    trial, job = run.job.trial, run.job
    torch.set_num_threads(trial.threads)
    tuning.seed_all(trial.seed or 0)
    run.sensors = watch.sensors(trial.device)
    if run.sensors.meter:
        run.clock.energy = run.sensors.meter.read
    if job.budget_bytes is not None and trial.training is not None:
        with run.clock.phase(Phase.PLAN):
            tokenizer = load_tokenizer(Path(job.base_folder), trial.base.trust_remote_code, trial.head is None)
            tuning.predict(run, tuning.prepared(run, tokenizer).step_examples)
    if any(task.chat for task in trial.tasks):
        with run.clock.phase(Phase.DATA):
            chats.check(trial, Path(job.base_folder), {}, fetches=True)
    loaded = _load(run)
    examples = _examples(run, loaded)
    evaluating.check_decoding(run, loaded, examples)
    model, status, message = loaded.model, Status.OK, None
    if trial.retention:
        with run.clock.phase(Phase.RETENTION):
            held = retention.held(trial, trial.retention, loaded.tokenizer)
            before = held.nats(run.base)
            run.record(retention.columns(held, before, None))
    if trial.training is not None:
        model, status, message = tuning.tune(run, loaded)
    if status is Status.OK and run.parallel.scores:
        evaluating.evaluate(run, loaded, model, examples)
        if trial.retention and trial.training:
            with run.clock.phase(Phase.RETENTION):
                run.record(retention.columns(held, before, held.nats(model)))
        if job.measures_inference:
            evaluating.measure_inference(run, loaded, model, examples)
        deploying.deploy(run, loaded, model, examples)
    return status, message


def _load(run: Run) -> Loaded:
    """Load the base model, and check that a trial with it is possible."""
    trial, folder = run.job.trial, Path(run.job.base_folder)
    method, precision = METHODS[trial.method], effective(trial.precision, trial.options)
    with run.clock.phase(Phase.LOAD):
        config = load_config(trial.base, folder)
        causality.check_config(config, trial.head is not None)
        base_facts.check(trial, config)
        whole = partial(
            load,
            folder,
            precision,
            method.trains_base,
            trial.options.get("double_quantization", True),
            trust_remote_code=trial.base.trust_remote_code,
            random_weights=trial.base.random_weights,
            head=trial.head,
            attention=trial.training.attention if trial.training else AUTO,
        )
        loaded = divided_base.read(run, config, lambda device, draws_on: whole(device=device, draws_on=draws_on))
    loaded.model.name_or_path = find.base_name(trial.base)  # a saved adapter must not name a folder of this machine
    run.record(
        SizeColumns(
            base_parameters=loaded.parameters,
            base_weights_bytes=loaded.weights_bytes,
            base_bits_per_weight=8 * loaded.weights_bytes / loaded.parameters,
            loaded_dtypes=loaded.dtypes,
        ),
        left_out_columns(loaded.model),
        MemoryColumns(memory_kind=peaks.KINDS[trial.device]),
    )
    run.record_memory("load", peaks.held(run.base, method.trains_base))
    context_length.check(trial, loaded.model.config)
    with run.clock.phase(Phase.CHECK):
        check = causality.check if trial.head is None else causality.check_padding
        check(run.base, precision, trial.device)
    return loaded


def _examples(run: Run, loaded: Loaded) -> dict[str, list[Example]]:
    """Return the examples of each scored task, after checking that their choices can be ranked."""
    trial = run.job.trial
    scored = [t for t in trial.tasks if t.name in trial.evaluate]
    examples = {t.name: chat.apply(t, fewshot.scored(t, trial.evaluation.split), loaded.tokenizer) for t in scored}
    ends, longest = learned_ends(trial), trial.evaluation.max_length
    for task in () if trial.head else trial.tasks:  # a head ranks nothing
        scoring.check_choices(loaded.tokenizer, task, examples.get(task.name, ()), longest, task.name in ends)
    return examples


def _result(run: Run, status: Status, message: str | None) -> Result:
    phase = None if status is Status.OK else run.phase
    run.record(
        *runner_rows.outcome(run.job, status, phase, message),
        # of the trial without deployment, before which it was recorded
        MemoryColumns(host_peak_resident_bytes=run.row.host_peak_resident_bytes or run.highest_resident()),
        EnvironmentColumns(finished_at=_now()),
    )
    row = replace(run.row, **_seconds(run.clock.seconds))
    return Result(row, run.steps, run.examples, run.scores)


def _seconds(measured: Mapping[Phase, float]) -> dict[str, Any]:
    """Return the time columns of phases. Training's is its steps alone; the rest of the loop remains untracked."""
    return {phase.column: seconds for phase, seconds in measured.items() if phase is not Phase.TRAIN}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
