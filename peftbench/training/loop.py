"""The training loop, the same for every method: it trains all parameters that require gradients."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from peftbench.errors import Diverged
from peftbench.measure import environment
from peftbench.measure.clock import Clock
from peftbench.models.precision import Precision
from peftbench.records import Phase, StepRow, Training
from peftbench.records.columns.time import TimeColumns
from peftbench.records.columns.work import WorkColumns
from peftbench.training import (
    checkpointing,
    compiling,
    float8,
    host_step,
    host_weights,
    kernels,
    logits,
    offloading,
    optimizers,
    several_optimizers,
    turns,
)
from peftbench.training.batches import Batch, micro_batches
from peftbench.training.encoded import Encoded
from peftbench.training.goal import Goal
from peftbench.training.kernels import Kernels
from peftbench.training.losses import batch_loss
from peftbench.training.parallel import ALONE, Parallel

_SCALE = 2.0**10
"""Initial loss scale of fp16. torch's default of 2**16 overflows at once on small models, and a step that overflows is
skipped, so a method would do less work than the others. A skipped step has an infinite gradient norm."""

_TAIL = 0.1
"""Share of the steps at the end whose mean loss is ``last_loss``."""
_LEAST_STEADY = 3
"""Fewest steady steps for which a rate is given."""


@dataclass(frozen=True)
class Learner:
    """A model in training: what one optimizer step needs."""

    model: Any
    parameters: Sequence[nn.Parameter]
    optimizer: Any
    scaler: Any
    """Gradient scaler; disabled unless the precision scales gradients."""
    training: Training
    precision: Precision
    device: str
    pad_id: int
    virtual_tokens: int
    """Positions that the method adds to every row of a forward pass."""
    after_step: Callable[[Any, int], None] | None = None
    """Called after each step with the model and the steps done before, while gradients on the device exist."""
    progress: Any = None
    """Module with ``state`` and ``restore`` (``Method.progress``); None if weights and buffers alone change."""
    parallel: Parallel = ALONE
    """How several devices share the steps."""
    compiled: compiling.Compiled | None = None
    """The layers that are compiled for steps; None if none are."""
    kernels: Kernels | None = None
    """What liger's kernels compute in steps; None if nothing."""


def learner(model: Any, parameters: Sequence[nn.Parameter], training: Training, **where: Any) -> Learner:
    """Return a model that is ready to train, with its optimizer and gradient scaler.

    Args:
        model: the base model with the method attached.
        parameters: the trainable ones.
        training: the settings.
        **where: the other fields of ``Learner``: precision, device, pad_id, virtual_tokens, after_step, progress,
            parallel, compiled, kernels.

    Raises:
        Unsupported: if logits, what is computed again, products, or weights cannot be as the settings want them.
    """
    logits.check(model, training.logits)
    scaler = torch.amp.GradScaler(  # type: ignore[attr-defined]
        where["device"], init_scale=_SCALE, enabled=where["precision"].gradient_scaling
    )
    float8.use(model, training.compute, where["device"])
    if training.gradient_checkpointing:
        checkpointing.enable(model, training.gradient_checkpointing)
    host_weights.install(model, training)
    return Learner(model, parameters, optimizers.make(parameters, training, model), scaler, training, **where)


def step(learner: Learner, batches: Sequence[Batch], rate: float, done: int | None = None) -> tuple[float, float]:
    """Take one optimizer step. The gradients of the micro-batches add up to the gradient of the whole batch.

    Args:
        learner: the model and its optimizer.
        batches: the micro-batches.
        rate: learning rate; LoRA+ trains B at a multiple of it.
        done: steps done before; None for an extra step that will be undone, for which ``after_step`` is not called and
            no layer's turn begins or ends.

    Returns:
        The loss in nats per token in the loss, and the gradient norm before clipping.
    """
    optimizers.set_rate(learner.optimizer, rate)
    if done is not None:
        turns.begin_step(learner.model, learner.optimizer, done)
    if several_optimizers.in_backward(learner.optimizer):
        return _step_in_backward(learner, batches)
    with host_step.collecting(learner) as moved:
        total = _gradients(learner, batches)
    with host_step.on_host(learner, moved):
        learner.scaler.unscale_(learner.optimizer)
        norm = learner.parallel.clip(learner.parameters, learner.training.clip_norm)
        learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    skipped = learner.precision.gradient_scaling and not math.isfinite(norm)
    if learner.after_step is not None and done is not None and not skipped:
        learner.after_step(learner.model, done)
    learner.optimizer.zero_grad(set_to_none=True)
    return float(total), norm


def _gradients(learner: Learner, batches: Sequence[Batch]) -> torch.Tensor:
    """Run a step's forward and backward passes; return its loss, a scalar."""
    with offloading.saved(learner), compiling.running(learner.compiled), kernels.running(learner.kernels):
        return learner.parallel.gradients(learner, batches, batch_loss)


def _step_in_backward(learner: Learner, batches: Sequence[Batch]) -> tuple[float, float]:
    """Take an optimizer step within the backward pass; return the loss and the gradient norm over all tensors."""
    if len(batches) != 1:
        raise ValueError(f"a step in the backward pass has one micro-batch; given {len(batches)}")
    with several_optimizers.stepping(learner.optimizer) as norms:
        total = _gradients(learner, batches)
    return float(total), float(torch.stack(norms).norm())


def step_batches(learner: Learner, examples: Sequence[Encoded]) -> list[Batch]:
    """Return the micro-batches of a step, as they are run."""
    batches = [b.to(learner.device) for b in micro_batches(examples, learner.training, learner.pad_id)]
    return learner.parallel.as_run(batches, learner.pad_id)


@torch.no_grad()
def validation_loss(learner: Learner, examples: Sequence[Encoded]) -> float:
    """Return the mean loss over held-out examples, in nats per token in the loss."""
    learner.model.eval()
    total, tokens = 0.0, 0
    for batch in micro_batches(examples, learner.training, learner.pad_id):
        total += learner.parallel.evaluated_loss(learner, batch.to(learner.device), batch_loss)
        tokens += batch.loss_tokens
    learner.model.train()
    return total / tokens


@dataclass
class Best:
    """The weights with the lowest validation loss so far."""

    loss: float = math.inf
    step: int = 0
    weights: list[torch.Tensor] = field(default_factory=list)

    def offer(self, loss: float, step: int, parameters: Sequence[nn.Parameter]) -> None:
        """Keep a copy of the weights if their loss is the lowest so far."""
        if loss < self.loss:
            self.loss, self.step = loss, step
            self.weights = [p.detach().clone() for p in parameters]


@dataclass
class Course:
    """What training has done so far, besides what it did to the model: from here another process can continue."""

    rows: list[StepRow] = field(default_factory=list)
    spent: float = 0.0
    """Seconds in steps."""
    waited: float | None = 0.0
    """Time that threads waited for a CPU during the steps, summed; None if the system does not report it."""
    best: Best = field(default_factory=Best)
    continued_at: int = 0
    """Steps done when this process took over; its first steps are untimed too."""


@dataclass(frozen=True)
class Trace:
    """The record of a training run."""

    steps: tuple[StepRow, ...]
    scored_step: int
    best_validation_loss: float | None
    waiting_seconds: float | None
    """Time that threads waited for a CPU during the steps, summed; None if the system does not report it."""


Progress = Callable[[int, int, float], None]
"""Called after each step with the step (from 1), the total number of steps and the loss."""


def train(
    learner: Learner,
    step_examples: Iterable[Sequence[Encoded]],
    held_out: Sequence[Encoded],
    clock: Clock,
    report: Progress,
    course: Course | None = None,
    after_each: Callable[[Course], None] = lambda _: None,
) -> Trace:
    """Train for the planned steps, and leave the weights that will be scored in the model.

    With a budget of seconds the steps are endless: the step that reaches the budget is the last, and the schedule
    follows the share of the budget that is used. Only the time of steps counts, the first ones included; validation
    does not.

    Args:
        learner: the model and its optimizer, in the state that belongs to ``course``.
        step_examples: the examples of each step, from the first.
        held_out: the examples of the validation loss.
        clock: measures steps and validation.
        report: called after each step.
        course: what was done before, from which training continues; None to begin.
        after_each: called with the course after each step, when no gradients exist.

    Raises:
        Diverged: at the first step with a loss or gradient that is not finite. For fp16 only the loss is checked, since
            the gradient scaler skips steps with such gradients.
    """
    course = course or Course()
    training = learner.training
    goal = Goal(training.seconds, len(step_examples) if isinstance(step_examples, Sequence) else None)
    learner.model.train()
    optimizers.to_training(learner.optimizer)
    steps = itertools.islice(step_examples, len(course.rows), None)
    while not goal.reached(len(course.rows), course.spent):
        _train_step(learner, next(steps), held_out, clock, report, course, goal)
        after_each(course)
    optimizers.to_evaluation(learner.optimizer)
    turns.release(learner.model)
    scored = len(course.rows)
    if training.score == "best_on_validation":
        scored = course.best.step
        with torch.no_grad():
            for parameter, kept in zip(learner.parameters, course.best.weights, strict=True):
                parameter.copy_(kept)
    best = course.best
    return Trace(tuple(course.rows), scored, best.loss if best.weights else None, course.waited)


def _train_step(
    learner: Learner,
    examples: Sequence[Encoded],
    held_out: Sequence[Encoded],
    clock: Clock,
    report: Progress,
    course: Course,
    goal: Goal,
) -> None:
    """Take the next step of a course, with the validation after it."""
    training, index = learner.training, len(course.rows)
    batches = step_batches(learner, examples)
    rate = optimizers.learning_rate(training, *goal.place(index, course.spent))
    waiting = environment.waiting_by_thread()
    start = clock.now()
    with compiling.noticed(learner.compiled) as compiles:
        loss, norm = step(learner, batches, rate, index)
    seconds = learner.parallel.same(clock.now() - start)
    course.spent += seconds
    total = goal.total(index + 1, course.spent)
    waited = environment.waited(waiting, environment.waiting_by_thread())
    course.waited = None if course.waited is None or waited is None else course.waited + waited
    if not math.isfinite(loss) or not (math.isfinite(norm) or learner.precision.gradient_scaling):
        raise Diverged(f"loss {loss} and gradient norm {norm} in step {index + 1} of {total}")
    checked = None
    if training.validate_every and ((index + 1) % training.validate_every == 0 or index + 1 == total):
        optimizers.to_evaluation(learner.optimizer)
        with clock.phase(Phase.VALIDATE):
            checked = learner.parallel.same(validation_loss(learner, held_out))  # all keep the same best weights
        if not math.isfinite(checked):
            raise Diverged(f"validation loss {checked} after step {index + 1} of {total}")
        course.best.offer(checked, index + 1, learner.parameters)
        optimizers.to_training(learner.optimizer)
    counts = _tokens(batches, examples, learner.virtual_tokens)
    untimed = bool(compiles) or index - course.continued_at < training.untimed_steps
    course.rows.append(StepRow("", index + 1, loss, seconds, untimed, rate, norm, *counts, checked))
    report(index + 1, total, loss)


def _tokens(batches: Sequence[Batch], examples: Sequence[Encoded], virtual: int) -> tuple[int, int, int]:
    """Return the numbers of processed tokens, non-padding tokens and tokens in the loss of a step."""
    processed = sum(b.ids.numel() + virtual * b.ids.shape[0] for b in batches)
    return processed, sum(len(e.ids) for e in examples), sum(b.loss_tokens for b in batches)


def columns(trace: Trace) -> tuple[WorkColumns, TimeColumns]:
    """Return the columns of a trial's row about training; rates are None with too few steady steps."""
    steady = [s for s in trace.steps if not s.untimed]
    tail = trace.steps[-max(1, round(len(trace.steps) * _TAIL)) :]
    work = WorkColumns(
        steps_done=len(trace.steps),
        skipped_steps=sum(not math.isfinite(s.gradient_norm or 0.0) for s in trace.steps),
        first_loss=trace.steps[0].loss,
        last_loss=statistics.fmean(s.loss for s in tail),
        best_validation_loss=trace.best_validation_loss,
        scored_step=trace.scored_step,
        median_step_seconds=statistics.median(s.seconds for s in steady) if steady else None,
        processed_tokens=sum(s.processed_tokens or 0 for s in trace.steps),
        nonpadding_tokens=sum(s.nonpadding_tokens or 0 for s in trace.steps),
        loss_tokens=sum(s.loss_tokens or 0 for s in trace.steps),
        processed_tokens_per_second=_rate(steady, sum(s.processed_tokens or 0 for s in steady)),
        tokens_per_second=_rate(steady, sum(s.nonpadding_tokens or 0 for s in steady)),
        loss_tokens_per_second=_rate(steady, sum(s.loss_tokens or 0 for s in steady)),
    )
    time = TimeColumns(
        train_seconds=sum(s.seconds for s in trace.steps),
        train_waiting_seconds=trace.waiting_seconds,
        untimed_seconds=sum(s.seconds for s in trace.steps if s.untimed),
    )
    return work, time


def _rate(steady: Sequence[StepRow], tokens: int) -> float | None:
    """Return tokens per second over the steady steps; None with too few of them."""
    return tokens / sum(s.seconds for s in steady) if len(steady) >= _LEAST_STEADY else None
