"""Run one trial: load, attach, train, account, check, evaluate, save. A failure is a result too."""

from __future__ import annotations

import dataclasses
import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from peftbench.errors import Diverged, DoesNotFit, Unsupported, UserError
from peftbench.evaluation import generation, passes, retention, scoring, structure
from peftbench.measure import environment, peaks, watch
from peftbench.measure.clock import Clock
from peftbench.measure.ledger import account
from peftbench.methods import METHODS, adapted_share, context_length, method_of
from peftbench.models import causality, find
from peftbench.models.load import Loaded, cast_trainable, load, load_tokenizer, matrices, trainable_parameters
from peftbench.models.precision import effective
from peftbench.planner import budget
from peftbench.planner.predict import load_config
from peftbench.records import Example, Job, Result, Status, Training, Trial, TrialRow, failures
from peftbench.records.resolve import resolve
from peftbench.runner import checkpoint
from peftbench.runner import rows as runner_rows
from peftbench.runner.checks import liveness, packed_rows
from peftbench.tasks import chat, fewshot
from peftbench.training import accounting, batches, flops, loop
from peftbench.training.effective import columns as effective_columns

_PROBE_EXAMPLES = 4


@dataclass
class Run:
    """A trial on its way: what is known so far, so that a failure keeps it."""

    job: Job
    clock: Clock
    report: loop.Progress
    phase: str = "start"
    gauges: watch.Gauges = field(default_factory=watch.Gauges)
    ledger: dict[str, dict[str, int]] = field(default_factory=dict)
    """Bytes by category at each phase's border."""
    facts: dict[str, Any] = field(default_factory=dict)
    steps: tuple[Any, ...] = ()
    scores: tuple[Any, ...] = ()
    examples: tuple[Any, ...] = ()
    bare: structure.Structure | None = None
    """The base before a method was put beside its weights, where it will be measured in use."""


def run(job: Job, asked_at: float, announce: Callable[[str], None], report: loop.Progress) -> Result:
    """Run a trial to its end and return its result, whatever the end is.

    Args:
        job: the trial and what it needs.
        asked_at: ``time.perf_counter()`` when the process was asked for.
        announce: called with each phase's name as it begins.
        report: called after each training step.
    """
    started = time.perf_counter()
    run = Run(job, None, report)  # type: ignore[arg-type]

    def enter(phase: str) -> None:
        run.phase = phase
        announce(phase)

    run.clock = Clock(torch.cuda.synchronize if job.trial.device == "cuda" else lambda: None, enter)
    run.facts.update(started_at=_now(), load_average=environment.load_average(), start_seconds=started - asked_at)
    status, message = _attempt(run)
    peaks.note_resident_peak(run.facts)
    return _result(run, status, message)


def _attempt(run: Run) -> tuple[Status, str | None]:
    """Run the trial and name how it ended."""
    try:
        return _phases(run)
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
        return (Status.OOM if failures.out_of_memory(error) else Status.ERROR), failures.words(error)


def _log_failure() -> None:
    logging.getLogger("peftbench").exception("the trial failed")


def _phases(run: Run) -> tuple[Status, str | None]:
    trial, job = run.job.trial, run.job
    method, precision = METHODS[trial.method], effective(trial.precision, trial.options)
    _prepare_process(trial)
    run.gauges = watch.gauges(trial.device)
    if run.gauges.meter:
        run.clock.energy = run.gauges.meter.read
    if job.budget_bytes is not None and trial.training is not None:
        with run.clock.phase("plan"):
            tokenizer = load_tokenizer(Path(job.base_folder), trial.base.trust_remote_code)
            _predict(run, _prepared(run, tokenizer).plan)
    with run.clock.phase("load"):
        causality.check_config(load_config(trial.base, Path(job.base_folder)))
        loaded = load(
            Path(job.base_folder),
            precision,
            method.trains_base,
            trial.options.get("double_quantization", True),
            device=trial.device,
            trust_remote_code=trial.base.trust_remote_code,
            random_weights=trial.base.random_weights,
        )
    loaded.model.name_or_path = find.base_name(trial.base)  # a saved adapter names no folder of this machine
    run.facts.update(
        base_parameters=loaded.parameters,
        base_weights_bytes=loaded.weights_bytes,
        base_bits_per_weight=8 * loaded.weights_bytes / loaded.parameters,
        loaded_dtypes=loaded.dtypes,
        memory_kind=peaks.KINDS[trial.device],
    )
    run.ledger["load"] = peaks.held(loaded.model, method.trains_base)
    context_length.check(trial, loaded.model.config)
    with run.clock.phase("check"):
        causality.check(loaded.model, precision, trial.device)
    scored = [t for t in trial.tasks if t.name in trial.evaluate]
    examples = {t.name: chat.apply(t, fewshot.scored(t, trial.evaluation.split), loaded.tokenizer) for t in scored}
    for task in trial.tasks:
        scoring.check_choices(loaded.tokenizer, task, examples.get(task.name, ()), trial.evaluation.max_length)
    status: tuple[Status, str | None] = (Status.OK, None)
    model = loaded.model
    if trial.retention:
        with run.clock.phase("retention"):
            held = retention.held(trial, trial.retention, loaded.tokenizer)
            before = held.nats(model)
            run.facts.update(retention.columns(held, before, None))
    if trial.training is not None:
        model, status = _tune(run, loaded)
    if status[0] is Status.OK:
        _evaluate(run, loaded, model, examples)
        if trial.retention and trial.training:
            with run.clock.phase("retention"):
                run.facts.update(retention.columns(held, before, held.nats(model)))
        if job.measures_inference:
            with run.clock.phase("inference"), watch.waiting(run.facts, "inference_waiting_seconds"):
                run.facts.update(generation.measure(_subject(run, loaded, model, examples)))
    return status


def _prepare_process(trial: Trial) -> None:
    torch.set_num_threads(trial.threads)
    _seed(trial.seed or 0)


def _seed(seed: int) -> None:
    random.seed(seed)
    torch.manual_seed(seed)


def _tune(run: Run, loaded: Loaded) -> tuple[Any, tuple[Status, str | None]]:
    """Attach the method, train, account for memory, check and save; return the tuned model."""
    trial = run.job.trial
    method = method_of(trial.method, trial.options)
    training, seed, precision = trial.training, trial.seed or 0, effective(trial.precision, trial.options)
    assert training is not None
    with run.clock.phase("data"):
        prepared = _prepared(run, loaded.tokenizer)
        plan = prepared.plan
        loaded.model.peftbench_origin = dataclasses.replace(loaded.model.peftbench_origin, plan=plan)
    with run.clock.phase("check"):
        probe = batches.collate(plan[0][:_PROBE_EXAMPLES], loaded.tokenizer.pad_token_id)
        logits = liveness.probe(loaded.model, probe, precision, trial.device)
    if run.job.measures_inference and not method.trains_base:
        run.bare = structure.remember(loaded.model.modules(), weights=False)
    model, learner = _attach(run, loaded, training)
    run.ledger["attach"] = peaks.held(model, method.trains_base)
    with run.clock.phase("check"):
        if training.packing:
            with nullcontext() if method.trains_base else liveness.stirred(learner.parameters):
                packed_rows.check(learner, plan)
        before = liveness.Before(logits, liveness.checksums(model, True), liveness.checksums(model, False))
    with run.clock.phase("train"), watch.training(run.gauges, run.facts):
        _seed(seed)
        steps = plan if training.seconds is None else batches.onward(prepared, trial, loaded.tokenizer)
        trace = loop.train(learner, steps, prepared.held_out, run.clock, watch.each_step(run.gauges, run.report))
    if training.seconds is not None:  # how far it came is known now
        del plan[len(trace.steps) :]
        run.facts.update(batches.columns(prepared))
    run.steps = tuple(dataclasses.replace(s, key=run.job.key) for s in trace.steps)
    run.facts.update(loop.columns(trace))
    run.facts.update(watch.energy_columns(run.gauges, run.clock))
    if trial.device == "cuda":
        run.facts["peak_train_bytes"] += peaks.paged_bytes(learner.optimizer)
    with run.clock.phase("account"):
        if trial.device == "cpu":
            steps = accounting.largest_steps(plan, training, context_length.virtual_tokens(trial))
            run.facts.update(accounting.train_columns(accounting.account_steps(learner, steps, method.trains_base)))
        run.facts.update(flops.columns(learner, plan))
        run.facts.update(effective_columns(learner))
    if run.job.predicts and run.job.budget_bytes is None:
        with run.clock.phase("plan"):
            _predict(run, plan)
    with run.clock.phase("check"):
        after = liveness.probe(model, probe, precision, trial.device)
        facts, status, reason = liveness.verdict(model, before, after)
        run.facts.update(facts, later_token_influence=causality.reads_ahead(model, precision, trial.device))
    with run.clock.phase("save"):
        run.facts.update(checkpoint.save(run.job, model, loaded.tokenizer))
    return model, (status, reason)


def _attach(run: Run, loaded: Loaded, training: Training) -> tuple[Any, loop.Learner]:
    """Attach the method; return the model and what its training needs."""
    trial = run.job.trial
    method, precision = method_of(trial.method, trial.options), effective(trial.precision, trial.options)
    with run.clock.phase("attach"):
        _seed(trial.seed or 0)
        found = matrices(loaded.model)
        model = resolve(method.attach)(loaded.model, trial.rank, trial.options)
        run.facts.update(adapted_share.columns(found, model))
        parameters = cast_trainable(model, precision)
        run.facts["trainable_parameters"] = trainable_parameters(model)
        learner = loop.learner(
            model,
            parameters,
            training,
            precision=precision,
            device=trial.device,
            pad_id=loaded.tokenizer.pad_token_id,
            virtual_tokens=context_length.virtual_tokens(trial),
            after_step=resolve(method.after_step) if method.after_step else None,
        )
    return model, learner


def _prepared(run: Run, tokenizer: Any) -> batches.Prepared:
    """Return what the trial trains on."""
    prepared = batches.of_trial(run.job.trial, tokenizer)
    run.facts.update(batches.columns(prepared))
    return prepared


def _predict(run: Run, plan: Sequence[Sequence[batches.Encoded]]) -> None:
    """Predict the peak of a training step, and refuse a trial whose peak is beyond its budget."""
    job, training = run.job, run.job.trial.training
    assert training is not None
    steps = accounting.largest_steps(plan, training, context_length.virtual_tokens(job.trial))
    try:
        peak = budget.check(job.trial, Path(job.base_folder), steps, job.budget_bytes, job.reserve_bytes)
    except DoesNotFit as error:
        run.facts["predicted_train_bytes"] = error.peak_bytes
        raise
    run.facts["predicted_train_bytes"] = peak


def _evaluate(run: Run, loaded: Loaded, model: Any, examples: dict[str, list[Example]]) -> None:
    """Score the tasks, after measuring evaluation's peak memory where that takes steps of its own."""
    trial = run.job.trial
    model.eval()
    tasks = [task for task in trial.tasks if task.name in trial.evaluate]
    wrapped = scoring.Harness(model, loaded.tokenizer, trial.evaluation, effective(trial.precision, trial.options))
    if trial.device == "cpu":
        with run.clock.phase("account"):
            run.ledger["evaluate"] = _account_evaluation(run, wrapped, examples)
            run.facts["peak_evaluate_bytes"] = sum(run.ledger["evaluate"].values())
    if trial.base.random_weights:  # the scores of random weights would be numbers without a meaning
        return
    with (
        run.clock.phase("evaluate"),
        peaks.allocator_peak(trial.device, run.facts, "peak_evaluate_bytes"),
        peaks.resident_peak(run.facts, "host_peak_evaluate_bytes"),
        passes.split(loaded.model, trial.device, run.facts, context_length.virtual_tokens(trial)),
    ):
        scores, rows = scoring.evaluate(wrapped, tasks, examples)
    if trial.device == "cuda":
        run.facts["peak_evaluate_bytes"] = max(run.facts["peak_evaluate_bytes"], wrapped.fitted_peak_bytes)
    run.scores = scores
    run.examples = tuple(dataclasses.replace(row, key=run.job.key) for row in rows)


def _subject(run: Run, loaded: Loaded, model: Any, examples: dict[str, list[Example]]) -> generation.Subject:
    """Return the tuned model as what is measured in use: last of all, so that nothing else depends on it."""
    trial = run.job.trial
    return generation.Subject(
        model=model,
        base=loaded.model,
        bare=run.bare,
        method=method_of(trial.method, trial.options),
        precision=effective(trial.precision, trial.options),
        device=trial.device,
        clock=run.clock,
        prompts=generation.prompts(loaded.tokenizer, examples.values(), trial.evaluation.max_length),
        pad_id=loaded.tokenizer.pad_token_id,
        scratch=Path(run.job.scratch),
    )


def _account_evaluation(run: Run, wrapped: scoring.Harness, examples: dict[str, list[Example]]) -> dict[str, int]:
    """Return the bytes by category at the highest peak over one batch of each task's longest prompts."""
    peak: dict[str, int] = {}
    for task in run.job.trial.tasks:
        if task.name in examples:
            own, largest = scoring.largest_batch(wrapped, task, examples[task.name])
            with account(wrapped.model, METHODS[run.job.trial.method].trains_base, {}) as book:
                scoring.run_harness(wrapped, own, largest)
            peak = max(peak, book.peak, key=lambda found: sum(found.values()))
    return {name: size for name, size in peak.items() if size}


def _result(run: Run, status: Status, message: str | None) -> Result:
    ok = status is Status.OK
    seconds = {
        f"{name}_seconds": value for name, value in run.clock.seconds.items() if name != "train"
    }  # train_seconds is the steps alone; the loop's own time stays untracked
    row = TrialRow(
        **runner_rows.describe(run.job),
        **{**seconds, **run.facts},
        **vars(runner_rows.reasons(run.job, status, message)),
        status=status,
        phase=None if ok else run.phase,
        message=None if message is None else runner_rows.told(run.job, message, status is Status.ERROR),
        ledger_json=json.dumps(run.ledger) if run.ledger else None,
        scores_json=json.dumps({s.task: dataclasses.asdict(s) for s in run.scores}, sort_keys=True),
        finished_at=_now(),
    )
    return Result(row, run.steps, run.examples, run.scores)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
