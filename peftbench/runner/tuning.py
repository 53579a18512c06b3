"""The training half of a trial: attach the method, train, account for memory and work, check and save."""

from __future__ import annotations

import dataclasses
import importlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from peftbench.errors import DoesNotFit
from peftbench.evaluation import structure
from peftbench.measure import peaks, reference, watch
from peftbench.methods import METHODS, adapted_share, context_length, method_of
from peftbench.models import causality, head
from peftbench.models.load import Loaded, cast_trainable, matrices, trainable_parameters
from peftbench.models.precision import Precision, effective
from peftbench.planner import budget
from peftbench.records import Phase, Status, Training, Trial
from peftbench.records.columns.memory import MemoryColumns
from peftbench.records.columns.sanity import SanityColumns
from peftbench.records.columns.size import SizeColumns
from peftbench.records.columns.work import WorkColumns
from peftbench.records.resolve import resolve
from peftbench.runner import checkpoint, divided_base, resuming
from peftbench.runner.checks import (
    compiled,
    first_step,
    liveness,
    packed_rows,
    probe,
    recomputed,
    replaced,
    some_logits,
)
from peftbench.runner.state import Run
from peftbench.training import (
    accounting,
    batches,
    compiling,
    flops,
    host_weights,
    kernels,
    loop,
    optimizers,
    turns,
    warm_up,
)
from peftbench.training import effective as computed_with
from peftbench.training import logits as logits_of
from peftbench.training.encoded import Encoded
from peftbench.training.parallel import ALONE


def seed_all(seed: int) -> None:
    """Seed every random number generator that a trial uses."""
    random.seed(seed)
    torch.manual_seed(seed)


def tune(run: Run, loaded: Loaded) -> tuple[Any, Status, str | None]:
    """Attach the method, train, account, check and save.

    Returns:
        The tuned model, the verdict of the sanity checks, and the reason if it is not ok.
    """
    trial = run.job.trial
    method = method_of(trial.method, trial.options)
    training, precision = trial.training, effective(trial.precision, trial.options)
    assert training is not None
    with run.clock.phase(Phase.DATA):
        data = prepared(run, loaded.tokenizer)
        step_examples = data.step_examples
        loaded.model.peftbench_origin = dataclasses.replace(loaded.model.peftbench_origin, step_examples=step_examples)
    with run.clock.phase(Phase.CHECK):
        few = probe.batch(step_examples, training, loaded.tokenizer.pad_token_id)
        logits = liveness.probe(run.base, few, precision, trial.device)
    if run.job.measures_inference and not method.trains_base:
        run.bare = structure.remember(loaded.model.modules(), weights=False)
    model, learner = _attach(run, loaded, training)
    run.record_memory("attach", peaks.held(model, method.trains_base, host_weights.held(model)))
    with run.clock.phase(Phase.CHECK):
        first_step.check(learner, loaded.model, method, few)
        if training.packing:
            with nullcontext() if method.trains_base else liveness.perturbed(learner.parameters):
                packed_rows.check(learner, step_examples)
        if training.logits != logits_of.ALL:
            some_logits.check(learner, few)
        if training.logits == logits_of.LIGER:
            with nullcontext() if method.trains_base else liveness.perturbed(learner.parameters):
                some_logits.check_gradients(learner, few)
        if not isinstance(training.gradient_checkpointing, bool) and not run.parallel.early:
            with nullcontext() if method.trains_base else liveness.perturbed(learner.parameters):
                recomputed.check(learner, few)
    _compile(run, learner, step_examples, few)
    _check_kernels(run, learner, few)
    with run.clock.phase(Phase.CHECK):
        before = liveness.Before(
            logits, liveness.checksums(model, True), liveness.checksums(model, False), liveness.parts(model)
        )
    learner = _distributed(run, model, learner, before)
    with _beside_reference(run):
        _train(run, learner, data, loaded.tokenizer)
    _account(run, learner, step_examples)
    compiling.close(learner.compiled)
    host_weights.release(model)
    run.parallel.settle(model)
    if run.parallel.count > 1:
        seed_all(trial.seed or 0)  # ranks have drawn different numbers in training
    if run.job.predicts and run.job.budget_bytes is None and run.parallel.count == 1:  # else it was before they met
        with run.clock.phase(Phase.PLAN):
            predict(run, step_examples)
    with run.clock.phase(Phase.CHECK):
        after = liveness.probe(model, few, precision, trial.device)
        if trial.head is not None and method.switch_off:  # the head has changed whether or not the method did anything
            with resolve(method.switch_off)(model):
                logits = liveness.probe(model, few, precision, trial.device)
            before = dataclasses.replace(before, logits=logits)
        columns, status, reason = _agreed(run, model, liveness.verdict(model, before, after))
        run.record(columns, _influence(model, precision, trial))
    with run.clock.phase(Phase.SAVE), run.parallel.whole(model, method.trains_base):
        if run.parallel.rank == 0:
            run.record(checkpoint.save(run.job, model, loaded.tokenizer))
    return model, status, reason


def _agreed(
    run: Run, model: Any, own: tuple[SanityColumns, Status, str | None]
) -> tuple[SanityColumns, Status, str | None]:
    """Return the verdict of all ranks, the same on each: that of the first that is not ok.

    Args:
        run: the trial.
        model: the trained model.
        own: this rank's verdict.

    Raises:
        RuntimeError: if ranks that each train the whole model have different weights.
    """
    columns, status, reason = own
    trained = liveness.checksums(model, True) if run.parallel.copies else None
    found = run.parallel.gathered((status, reason, trained))
    status, reason, _ = next((each for each in found if each[0] is not Status.OK), found[0])
    apart = sorted({name for *_, other in found if trained for name in trained if other[name] != found[0][2][name]})
    if status is Status.OK and apart:
        raise RuntimeError(f"the ranks' trained weights differ, which training must keep equal: {', '.join(apart[:5])}")
    return columns, status, reason


def _influence(model: Any, precision: Precision, trial: Trial) -> SanityColumns:
    """Return how much the tuned model reads of what it must not: later tokens, or padding with a head."""
    if trial.head is None:
        return SanityColumns(later_token_influence=causality.reads_ahead(model, precision, trial.device))
    return SanityColumns(padding_influence=causality.reads_padding(model, precision, trial.device))


def _attach(run: Run, loaded: Loaded, training: Training) -> tuple[Any, loop.Learner]:
    """Attach the method; return the model and what its training needs."""
    trial = run.job.trial
    method, precision = method_of(trial.method, trial.options), effective(trial.precision, trial.options)
    with run.clock.phase(Phase.ATTACH):
        seed_all(trial.seed or 0)
        found = matrices(loaded.model)
        model = divided_base.attach(run, loaded)
        run.record(adapted_share.columns(found, model))
        head.trainable(model, getattr(torch, precision.trainable))
        parameters = cast_trainable(model, precision)
        own = trainable_parameters(model)
        once = turns.most_at_once(model)
        run.record(
            SizeColumns(trainable_parameters=own, largest_turn_parameters=once, head_parameters=head.count(model))
        )
        learner = loop.learner(
            model,
            divided_base.divide(run, model, precision) if run.parallel.early else parameters,
            training,
            precision=precision,
            device=trial.device,
            pad_id=loaded.tokenizer.pad_token_id,
            virtual_tokens=context_length.virtual_tokens(trial),
            after_step=resolve(method.after_step) if method.after_step else None,
            progress=importlib.import_module(method.progress) if method.progress else None,
            parallel=run.parallel if run.parallel.early else ALONE,
            compiled=compiling.make(model, training.compile, trial.device, run.job.scratch),
            kernels=kernels.make(model, training.kernels),
        )
    return model, learner


def _compile(run: Run, learner: loop.Learner, step_examples: Sequence[Sequence[Encoded]], few: batches.Batch) -> None:
    """Compile the layers that are to run compiled, and check that they compute the same."""
    if learner.compiled is None:
        return
    with run.clock.phase(Phase.COMPILE):
        warm_up.compile_layers(learner, step_examples, few)
    trains_base = METHODS[run.job.trial.method].trains_base
    with run.clock.phase(Phase.CHECK), nullcontext() if trains_base else liveness.perturbed(learner.parameters):
        compiled.check(learner, few)


def _check_kernels(run: Run, learner: loop.Learner, few: batches.Batch) -> None:
    """Check that kernels which replace parts of the base model run, and compute the same."""
    if learner.kernels is None:
        return
    trains_base = METHODS[run.job.trial.method].trains_base
    with run.clock.phase(Phase.CHECK), nullcontext() if trains_base else liveness.perturbed(learner.parameters):
        replaced.check(learner, few)


@contextmanager
def _beside_reference(run: Run) -> Iterator[None]:
    """Time the reference step before and after training, on a CPU: a GPU's allocator would keep its memory."""
    if run.job.trial.device != "cpu":
        yield
        return
    with run.clock.phase(Phase.ACCOUNT):
        before = _reference_seconds(run)
    yield
    with run.clock.phase(Phase.ACCOUNT):
        run.record(WorkColumns(reference_step_seconds=reference.typical(before, _reference_seconds(run))))


def _reference_seconds(run: Run) -> list[float] | None:
    """Return the times of reference steps; of several processes only the first takes them, while the others wait."""
    seconds = reference.step_seconds() if run.parallel.rank == 0 else []
    found: list[float] | None = run.parallel.first(seconds)
    return found


def _distributed(run: Run, model: Any, learner: loop.Learner, before: liveness.Before) -> loop.Learner:
    """Return the learner of a model that is divided among the trial's devices."""
    if run.parallel.count == 1 or run.parallel.early:
        return learner
    with run.clock.phase(Phase.ATTACH):
        started = run.parallel.gathered((before.trainable, before.frozen))
        if any(other != started[0] for other in started):
            raise RuntimeError("the ranks do not start from the same weights, although from the same seed")
        run.parallel.distribute(model, learner.precision)
        own = [p for p in model.parameters() if p.requires_grad]
        made = optimizers.make(own, learner.training, model)
        return dataclasses.replace(learner, parameters=own, optimizer=made, parallel=run.parallel)


def _train(run: Run, learner: loop.Learner, data: batches.Prepared, tokenizer: Any) -> None:
    """Train, and record what training did and took; after an exception, what it took until then."""
    trial, training = run.job.trial, learner.training
    measured = watch.Training()
    seed_all(run.parallel.seed(trial.seed or 0))
    course = resuming.resume(run, learner, data.step_examples[0])
    keeper = resuming.keeper(run, learner)
    with run.clock.phase(Phase.TRAIN):
        try:
            with watch.training(run.sensors) as measured:
                steps = data.step_examples if training.seconds is None else batches.onward(data, trial, tokenizer)
                report = watch.each_step(run.sensors, run.reported)
                trace = loop.train(learner, steps, data.held_out, run.clock, report, course, keeper)
        finally:
            run.record(run.earlier.merged(measured.memory), measured.environment)
    if training.seconds is not None:  # only now is the number of steps known
        del data.step_examples[len(trace.steps) :]
        run.record(*batches.columns(data))
    run.steps = tuple(dataclasses.replace(s, key=run.job.key) for s in trace.steps)
    run.record(*loop.columns(trace), warm_up.columns(learner))
    if course is None:  # else the energy of the earlier processes is not known
        run.record(watch.energy_columns(run.sensors, run.clock))
    if trial.device == "cuda":
        peak = (run.row.peak_train_bytes or 0) + peaks.paged_bytes(learner.optimizer)
        run.record(MemoryColumns(peak_train_bytes=peak), peaks.paged_columns(learner.optimizer))


def _account(run: Run, learner: loop.Learner, step_examples: Sequence[Sequence[Encoded]]) -> None:
    """Record memory by category and the work of a step, measured in extra steps."""
    trial = run.job.trial
    method = method_of(trial.method, trial.options)
    with run.clock.phase(Phase.ACCOUNT):
        if trial.device == "cpu":
            steps = accounting.largest_steps(step_examples, learner.training, context_length.virtual_tokens(trial))
            run.record(accounting.train_columns(accounting.account_steps(learner, steps, method.trains_base)))
        run.record(*flops.columns(learner, step_examples))
        run.record(computed_with.columns(learner))


def prepared(run: Run, tokenizer: Any) -> batches.Prepared:
    """Return what the trial trains on, and record what is known of it."""
    data = batches.of_trial(run.job.trial, tokenizer)
    run.record(*batches.columns(data))
    return data


def predict(run: Run, step_examples: Sequence[Sequence[Encoded]], rank: int = 0) -> None:
    """Predict and record the memory peaks of loading and of a training step, of several devices those of one rank.

    Raises:
        DoesNotFit: if a predicted peak exceeds the trial's memory budget.
    """
    job, training = run.job, run.job.trial.training
    assert training is not None
    steps = accounting.largest_steps(step_examples, training, context_length.virtual_tokens(job.trial))
    try:
        found = budget.check(job.trial, Path(job.base_folder), steps, job.budget_bytes, job.reserve_bytes, rank)
    except DoesNotFit as error:
        run.record(MemoryColumns(predicted_train_bytes=error.peak_bytes, predicted_load_bytes=error.loading_bytes))
        raise
    if found is not None:
        peak = found.peak_bytes if training.compile == compiling.NONE else None  # compiled code keeps what it wants
        run.record(MemoryColumns(predicted_train_bytes=peak, predicted_load_bytes=found.loading_bytes))
