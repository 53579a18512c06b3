"""The one training loop. It knows no method: it is given a model in which some parameters require gradients."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from peftbench.errors import Diverged
from peftbench.measure import environment
from peftbench.measure.clock import Clock
from peftbench.models.load import autocast
from peftbench.models.precision import Precision
from peftbench.records import StepRow, Training
from peftbench.training import optimizers
from peftbench.training.batches import IGNORED, Batch, Encoded, micro_batches

_SCALE = 2.0**10
"""First loss scale of fp16. torch's default of 2**16 overflows at once on small models, and a step that overflows is
skipped: the method would do less work than the others. Skipped steps show as an infinite gradient norm."""

_TAIL = 0.1
"""Share of the steps whose mean is ``last_loss``."""
_LEAST_STEADY = 3
"""Fewest steady steps from which a rate is told."""


@dataclass(frozen=True)
class Learner:
    """A model in training: what one optimizer step needs."""

    model: Any
    parameters: Sequence[nn.Parameter]
    optimizer: Any
    scaler: Any
    """Gradient scaler; does nothing unless the precision scales gradients."""
    training: Training
    precision: Precision
    device: str
    pad_id: int
    virtual_tokens: int
    """Positions that the method itself takes in every example of a forward pass."""
    after_step: Callable[[Any, int], None] | None = None
    """Called with the model and the steps done before, while the step's gradients are still there."""


def learner(model: Any, parameters: Sequence[nn.Parameter], training: Training, **where: Any) -> Learner:
    """Return a model made ready to train.

    Args:
        model: the base with the method attached.
        parameters: those that train.
        training: the settings.
        **where: the other fields of ``Learner``: precision, device, pad_id, virtual_tokens, after_step.
    """
    scaler = torch.amp.GradScaler(  # type: ignore[attr-defined]
        where["device"], init_scale=_SCALE, enabled=where["precision"].gradient_scaling
    )
    if training.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()  # a frozen embedding would cut the graph
    return Learner(model, parameters, optimizers.make(parameters, training), scaler, training, **where)


def batch_loss(model: Any, batch: Batch) -> torch.Tensor:
    """Return the summed cross-entropy, in nats, over the batch's loss-bearing tokens.

    Logits have shape (b, p + t, v) where a method puts p virtual positions first; the last t are the data's.
    """
    logits = model(**batch.inputs, use_cache=False).logits[:, -batch.ids.shape[1] :]
    return functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), batch.labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )


def step(learner: Learner, batches: Sequence[Batch], rate: float, done: int | None = None) -> tuple[float, float]:
    """Take one optimizer step over micro-batches whose gradients add up to the whole batch's.

    Args:
        learner: what trains.
        batches: the micro-batches.
        rate: learning rate.
        done: steps done before; None for a step that will be undone, of which a method that counts hears nothing.

    Returns:
        The loss in nats per loss-bearing token and the gradient norm before clipping.
    """
    loss_tokens = sum(batch.loss_tokens for batch in batches)
    total = torch.zeros((), device=learner.device)
    for batch in batches:
        with autocast(learner.precision, learner.device):
            loss = batch_loss(learner.model, batch) / loss_tokens
        learner.scaler.scale(loss).backward()
        total += loss.detach()
        del loss  # its graph, of which bitsandbytes' int8 layers keep their inputs alive beyond the backward pass
    learner.scaler.unscale_(learner.optimizer)
    clip = learner.training.clip_norm
    norm = nn.utils.clip_grad_norm_(learner.parameters, math.inf if clip is None else clip)
    for group in learner.optimizer.param_groups:
        group["lr"] = rate
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    skipped = learner.precision.gradient_scaling and not math.isfinite(norm)
    if learner.after_step is not None and done is not None and not skipped:
        learner.after_step(learner.model, done)
    learner.optimizer.zero_grad(set_to_none=True)
    return float(total), float(norm)


@torch.no_grad()
def validation_loss(learner: Learner, examples: Sequence[Encoded]) -> float:
    """Return the loss in nats per loss-bearing token over held-out examples."""
    learner.model.eval()
    total, tokens = 0.0, 0
    for batch in micro_batches(examples, learner.training, learner.pad_id):
        with autocast(learner.precision, learner.device):
            total += float(batch_loss(learner.model, batch.to(learner.device)))
        tokens += batch.loss_tokens
    learner.model.train()
    return total / tokens


@dataclass
class Best:
    """The weights of the lowest validation loss so far."""

    loss: float = math.inf
    step: int = 0
    weights: list[torch.Tensor] = field(default_factory=list)

    def offer(self, loss: float, step: int, parameters: Sequence[nn.Parameter]) -> None:
        """Keep a copy of the weights if their loss is the lowest."""
        if loss < self.loss:
            self.loss, self.step = loss, step
            self.weights = [p.detach().clone() for p in parameters]


@dataclass(frozen=True)
class Trace:
    """What training leaves behind beside the weights."""

    steps: tuple[StepRow, ...]
    scored_step: int
    best_validation_loss: float | None
    waiting_seconds: float | None
    """Waited for a CPU during the steps, over all threads; None where the system does not tell."""


_PARTS = 1_000_000
"""Into which a budget of seconds is cut for the schedule."""


@dataclass(frozen=True)
class _Goal:
    """When training ends: after so many seconds of steps, or so many steps. One of them is None."""

    seconds: float | None
    steps: int | None

    def place(self, index: int, spent: float) -> tuple[int, int]:
        """Return where a step (from 0) stands in the schedule, and how long that is."""
        if self.steps is not None:
            return index, self.steps
        assert self.seconds is not None
        return min(_PARTS - 1, int(_PARTS * spent / self.seconds)), _PARTS

    def total(self, done: int, spent: float) -> int:
        """Return how many steps there are in all; by the clock, as far as it can be told from those done."""
        if self.steps is not None:
            return self.steps
        assert self.seconds is not None
        return done if spent >= self.seconds else max(done + 1, round(done * self.seconds / spent))


Progress = Callable[[int, int, float], None]
"""Called after each step with the step (from 1), all steps and the loss."""


def train(
    learner: Learner, plan: Iterable[Sequence[Encoded]], held_out: Sequence[Encoded], clock: Clock, report: Progress
) -> Trace:
    """Train for the planned steps; leave the weights that are to be scored in the model.

    Where the suite gives seconds, the plan has no end: the step that reaches them is the last, and the schedule follows
    the share of them that is used up. What steps alone take counts, the first ones too; validation does not.

    Raises:
        Diverged: at the first step whose loss or gradient is not finite (fp16's gradient scaler skips the latter).
    """
    rows: list[StepRow] = []
    spent = 0.0
    waits: list[float | None] = []
    best = Best()
    training = learner.training
    goal = _Goal(training.seconds, len(plan) if isinstance(plan, Sequence) else None)
    learner.model.train()
    for index, examples in enumerate(plan):
        batches = [b.to(learner.device) for b in micro_batches(examples, training, learner.pad_id)]
        rate = optimizers.learning_rate(training, *goal.place(index, spent))
        waiting = environment.waiting_by_thread()
        start = clock.now()
        loss, norm = step(learner, batches, rate, index)
        seconds = clock.now() - start
        spent += seconds
        total = goal.total(index + 1, spent)
        waits.append(environment.waited(waiting, environment.waiting_by_thread()))
        if not math.isfinite(loss) or not (math.isfinite(norm) or learner.precision.gradient_scaling):
            raise Diverged(f"loss {loss} and gradient norm {norm} in step {index + 1} of {total}")
        checked = None
        if training.validate_every and ((index + 1) % training.validate_every == 0 or index + 1 == total):
            with clock.phase("validate"):
                checked = validation_loss(learner, held_out)
            if not math.isfinite(checked):
                raise Diverged(f"validation loss {checked} after step {index + 1} of {total}")
            best.offer(checked, index + 1, learner.parameters)
        counts = _tokens(batches, learner.virtual_tokens)
        rows.append(StepRow("", index + 1, loss, seconds, index < training.untimed_steps, rate, norm, *counts, checked))
        report(index + 1, total, loss)
        if index + 1 == total:
            break
    scored = len(rows)
    if training.score == "best_on_validation":
        scored = best.step
        with torch.no_grad():
            for parameter, kept in zip(learner.parameters, best.weights, strict=True):
                parameter.copy_(kept)
    waited = None if None in waits else sum(wait for wait in waits if wait is not None)
    return Trace(tuple(rows), scored, best.loss if best.weights else None, waited)


def _tokens(batches: Sequence[Batch], virtual: int) -> tuple[int, int, int]:
    """Return (processed, non-padding, loss-bearing) tokens of a step."""
    processed = sum(b.ids.numel() + virtual * b.ids.shape[0] for b in batches)
    return processed, sum(int(b.mask.sum()) for b in batches), sum(b.loss_tokens for b in batches)


def columns(trace: Trace) -> dict[str, Any]:
    """Return what training was, as columns of the trial's row; rates are null with too few steady steps."""
    steady = [s for s in trace.steps if not s.untimed]
    seconds = sum(s.seconds for s in steady)
    tail = trace.steps[-max(1, round(len(trace.steps) * _TAIL)) :]
    facts = {
        "steps_done": len(trace.steps),
        "skipped_steps": sum(not math.isfinite(s.gradient_norm) for s in trace.steps),
        "first_loss": trace.steps[0].loss,
        "last_loss": statistics.fmean(s.loss for s in tail),
        "best_validation_loss": trace.best_validation_loss,
        "scored_step": trace.scored_step,
        "train_seconds": sum(s.seconds for s in trace.steps),
        "train_waiting_seconds": trace.waiting_seconds,
        "untimed_seconds": sum(s.seconds for s in trace.steps if s.untimed),
        "median_step_seconds": statistics.median(s.seconds for s in steady) if steady else None,
    }
    for name in ("processed", "nonpadding", "loss"):
        column = f"{name}_tokens"
        facts[column] = sum(getattr(s, column) for s in trace.steps)
        rate = sum(getattr(s, column) for s in steady) / seconds if len(steady) >= _LEAST_STEADY else None
        facts["tokens_per_second" if name == "nonpadding" else f"{column}_per_second"] = rate
    return facts
