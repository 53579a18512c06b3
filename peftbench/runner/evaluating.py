"""The evaluation half of a trial: score the tasks, and measure what it costs to generate with the tuned model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from peftbench.evaluation import cached_steps, generation, passes, scoring, whole_texts
from peftbench.evaluation.agreement import Agreement
from peftbench.measure import watch
from peftbench.measure.ledger import account
from peftbench.methods import METHODS, context_length, method_of
from peftbench.models.load import Loaded
from peftbench.models.precision import effective
from peftbench.records import Example, ExampleRow, Phase, Score, Task
from peftbench.records.columns.environment import ScoreColumns
from peftbench.records.columns.inference import InferenceColumns
from peftbench.records.columns.memory import MemoryColumns
from peftbench.runner.state import Run
from peftbench.tasks import lm_eval_tasks, reach
from peftbench.training.encoded import learned_ends


def check_decoding(run: Run, loaded: Loaded, examples: Mapping[str, list[Example]]) -> None:
    """Check that the base model decodes from the text alone, if answers to a scored task are decoded.

    Raises:
        Unsupported: if it does not.
    """
    trial = run.job.trial
    tasks = {t.name: lm_eval_tasks.stand_in(t) if t.lm_eval else t for t in trial.tasks if t.name in examples}
    prompts = [
        examples[name][0].prompt for name, task in tasks.items() if task.kind in reach.DECODED and examples[name]
    ]
    if not prompts or trial.base.random_weights:
        return
    with run.clock.phase(Phase.CHECK):
        ids = torch.tensor([loaded.tokenizer(prompts[0])["input_ids"] or [loaded.tokenizer.pad_token_id]])
        precision = effective(trial.precision, trial.options)
        longest = ids[:, -trial.evaluation.max_length :]
        cached_steps.check_inputs(run.base, longest, precision, trial.device, loaded.tokenizer.pad_token_id)


def evaluate(run: Run, loaded: Loaded, model: Any, examples: Mapping[str, list[Example]]) -> None:
    """Score the tasks. On the CPU, evaluation's memory peak is measured in an extra pass before.

    In which form the texts can be run is found out before both, so that neither memory nor times contain it.
    """
    trial = run.job.trial
    model.eval()
    tasks = [task for task in trial.tasks if task.name in trial.evaluate]
    if trial.head is not None:
        _evaluate_whole_texts(run, loaded, model, [(task, examples[task.name]) for task in tasks])
        return
    with run.clock.phase(Phase.EVALUATE):
        precision, ends = effective(trial.precision, trial.options), learned_ends(trial)
        harness = scoring.Harness(model, loaded.tokenizer, trial.evaluation, precision, ends)
        if trial.devices is not None and trial.devices.strategy == "fsdp2":
            harness.searches = False  # all ranks score in lockstep: one alone must not take smaller batches
            harness.agreement = Agreement(run.parallel.gathered)
    with run.clock.phase(Phase.CHECK):
        for task in tasks:
            together = harness.agreement.gathered is not None  # one that goes on after a failure would be out of step
            with nullcontext() if together else suppress(Exception):  # scoring meets it again, and decides
                scoring.prove(harness, task, examples[task.name])
        harness.fitted_peak_bytes = 0  # nothing has been scored
    if trial.device == "cpu":
        with run.clock.phase(Phase.ACCOUNT):
            categories = _account_evaluation(run, harness, examples)
            run.record_memory("evaluate", categories)
            run.record(MemoryColumns(peak_evaluate_bytes=sum(categories.values())))
    if trial.base.random_weights:  # scores of random weights would be meaningless
        return
    measured = watch.Evaluation()
    with run.clock.phase(Phase.EVALUATE):
        try:
            with (
                watch.evaluation(run.sensors) as measured,
                passes.split(loaded.model, trial.device, context_length.virtual_tokens(trial)) as times,
            ):
                scores, rows = scoring.evaluate(harness, tasks, examples)
        finally:
            run.record(measured.memory)
        run.record(times.columns)
    if trial.device == "cuda":
        peak = max(run.row.peak_evaluate_bytes or 0, harness.fitted_peak_bytes)
        run.record(MemoryColumns(peak_evaluate_bytes=peak))
    _keep(run, scores, rows)


def _keep(run: Run, scores: tuple[Score, ...], rows: tuple[ExampleRow, ...]) -> None:
    """Add scores and scored examples to the result."""
    by_task = {score.task: dataclasses.asdict(score) for score in scores}
    run.record(ScoreColumns(scores_json=json.dumps(by_task, sort_keys=True)))
    run.scores = scores
    run.examples = tuple(dataclasses.replace(row, key=run.job.key) for row in rows)


def _evaluate_whole_texts(run: Run, loaded: Loaded, model: Any, examples: Sequence[tuple[Task, list[Example]]]) -> None:
    """Score the task of a head, as ``evaluate`` does."""
    trial = run.job.trial
    reader = whole_texts.Reader.of(model, loaded.tokenizer, trial, effective(trial.precision, trial.options))
    if trial.device == "cpu":
        with run.clock.phase(Phase.ACCOUNT):
            with account(model, METHODS[trial.method].trains_base, {}) as counted:
                for task, found in examples:
                    whole_texts.run_largest_batch(reader, task, found)
            run.record_memory("evaluate", {name: size for name, size in counted.peak.items() if size})
            run.record(MemoryColumns(peak_evaluate_bytes=counted.peak_bytes))
    if trial.base.random_weights:
        return
    measured = watch.Evaluation()
    with run.clock.phase(Phase.EVALUATE):
        try:
            with (
                watch.evaluation(run.sensors) as measured,
                passes.split(loaded.model, trial.device, context_length.virtual_tokens(trial)) as times,
            ):
                scored = [whole_texts.evaluate(reader, task, each) for task, each in examples]
        finally:
            run.record(measured.memory)
        run.record(times.columns)
    _keep(run, tuple(score for score, _ in scored), tuple(row for _, rows in scored for row in rows))


def _account_evaluation(run: Run, harness: scoring.Harness, examples: Mapping[str, list[Example]]) -> dict[str, int]:
    """Return the bytes by category at the highest peak over one batch of each task, the one with most tokens."""
    peak: dict[str, int] = {}
    for task in run.job.trial.tasks:
        if task.name in examples:
            with account(harness.model, METHODS[run.job.trial.method].trains_base, {}) as counted:
                scoring.run_largest_batch(harness, task, examples[task.name])
            peak = max(peak, counted.peak, key=lambda found: sum(found.values()))
    return {name: size for name, size in peak.items() if size}


def measure_inference(run: Run, loaded: Loaded, model: Any, examples: Mapping[str, list[Example]]) -> None:
    """Measure what it costs to generate with the tuned model: last of all, so that nothing else depends on it."""
    trial = run.job.trial
    with run.clock.phase(Phase.INFERENCE):
        with watch.waiting() as waiting:
            subject = generation.Subject(
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
            run.record(generation.measure(subject))
        run.record(InferenceColumns(inference_waiting_seconds=waiting.seconds))
