"""One trial on several devices: what each strategy does differently from one process.

Every process of a trial (a rank) runs the same phases on the same data in the same order: it loads the base model
(where ``early``, rank 0 alone has its weights), attaches the method from the same seed, draws the same batches. A
strategy is a subclass of ``Parallel`` that overrides what it does otherwise; ``Parallel`` itself is one process alone.
It is used in this order:

1. ``distribute(model, precision)``: after the method is attached and checked, before the optimizer is made. Where
   ``early``, ``divide(model, precision, sends)`` comes before the checks, and once before for the base model alone.
2. ``as_run(batches, pad_id)``, ``gradients(learner, batches, batch_loss)`` and ``clip(parameters, limit)``: in each
   step of ``training.loop``. ``work`` and ``all_work``: after training, to count its operations.
   ``take_up(learner, batch, batch_loss)``: before them, if training continues from a saved state.
3. ``evaluated_loss(learner, batch, batch_loss)``: for the validation loss.
4. ``settle(model)``: after training and accounting. From here on all ranks call the model in lockstep, with the same
   inputs, for checks and scores; ``model(...)`` and ``model.generate(...)`` must give every rank the whole logits. If
   ``scores`` is false on a rank, it takes no part in the scores.
5. ``whole(model, everything)``: within it parameters of rank 0 are whole tensors, to be saved.

To add a strategy: a record in ``records.devices.STRATEGIES``, its limits in ``methods.strategies``, a module here with
its class, and its place in ``_CLASSES``.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from peftbench.models.load import autocast
from peftbench.models.precision import Precision
from peftbench.records import Devices
from peftbench.training.batches import Batch

if TYPE_CHECKING:
    from peftbench.training.loop import Learner

Loss = Callable[[Any, Batch], torch.Tensor]
_CLASSES: Mapping[str, str] = MappingProxyType(
    {
        "ddp": "data:Replicated",
        "fsdp2": "sharded:FullySharded",
        "tp": "divided:TensorParallel",
        "pp": "divided:Pipelined",
    }
)
"""Strategy -> ``module:class`` in this package."""


class Parallel:
    """One process alone; the base of every strategy."""

    rank = 0
    """This process among those of the trial, from 0."""
    count = 1
    """Number of processes."""
    shares = 1
    """Among how many processes the forward passes of a step are divided."""
    early = False
    """Whether the base model stays on the host until it is divided, before anything calls it."""
    scores = True
    """Whether this rank runs what follows after the tuned model is saved: where every rank has the whole model, rank 0
    alone does."""
    copies = False
    """Whether every rank trains the whole model, so that their weights must stay equal."""
    backend: str | None = None
    """How the processes exchange tensors: ``gloo`` or ``nccl``; None for one process."""

    def distribute(self, model: Any, precision: Precision) -> None:
        """Divide a model among the ranks, in place. Parameters may be replaced; those that train keep their names.

        Args:
            model: the model, whole and with the method attached.
            precision: of its forward passes.

        Raises:
            Unsupported: if the model or its method cannot be divided so.
        """

    def divide(self, model: Any, precision: Precision, sends: bool) -> None:
        """Divide a model that is on the host, where ``early``; afterwards all ranks call it in lockstep.

        Args:
            model: as for ``distribute``, but on the host.
            precision: of its forward passes.
            sends: whether rank 0 alone has the weights, and the model of the others is on ``meta``.
        """
        raise NotImplementedError

    @contextmanager
    def in_parts(self, model: Any) -> Iterator[None]:
        """Let modules of a model be called by themselves within the context."""
        yield

    def gradients(self, learner: Learner, batches: Sequence[Batch], batch_loss: Loss) -> torch.Tensor:
        """Run the forward and backward passes of a step; return the mean loss over its tokens in the loss, a scalar.

        Afterwards each rank has the gradient of that mean for the parameters that it holds, times the scale of the
        gradient scaler.

        Args:
            learner: the model and its optimizer.
            batches: all micro-batches of the step, the same on every rank.
            batch_loss: gives the loss of a pass (``losses.batch_loss``).
        """
        return added_up(learner, batches, sum(batch.loss_tokens for batch in batches), batch_loss)

    def as_run(self, batches: Sequence[Batch], pad_id: int) -> list[Batch]:
        """Return the micro-batches of a step with the padding that the passes add."""
        return list(batches)

    def take_up(self, learner: Learner, batch: Batch, batch_loss: Loss) -> None:
        """Exchange gradients from now on as after a first step, if that step changes how; the state is restored then.

        Args:
            learner: the model and its optimizer.
            batch: a micro-batch, the same on every rank.
            batch_loss: gives the loss of a pass.
        """

    def work(self, learner: Learner, batches: Sequence[Batch], batch_loss: Loss) -> None:
        """Run the passes of a step so that their work can be counted; gradients are left, and mean nothing."""
        for batch in batches:
            with autocast(learner.precision, learner.device):
                loss = batch_loss(learner.model, batch) / batch.loss_tokens
            loss.backward()

    def all_work(self, operations: int) -> int:
        """Return the operations of a step's passes, from those that this rank counted in ``work``."""
        return operations

    def clip(self, parameters: Sequence[nn.Parameter], limit: float | None) -> float:
        """Scale the gradients down to a norm, over all tensors of all ranks; return the norm before.

        Args:
            parameters: those that train, as this rank holds them.
            limit: the largest norm; None for no clipping.
        """
        return float(nn.utils.clip_grad_norm_(parameters, math.inf if limit is None else limit))

    def evaluated_loss(self, learner: Learner, batch: Batch, batch_loss: Loss) -> float:
        """Return the summed loss of a batch without gradients, the same on every rank."""
        with autocast(learner.precision, learner.device):
            return float(batch_loss(learner.model, batch))

    def settle(self, model: Any) -> None:
        """Bring a trained model into the form in which all ranks call it in lockstep."""

    @contextmanager
    def whole(self, model: Any, everything: bool) -> Iterator[None]:
        """Give rank 0's model whole tensors within the context, which may be on the host; every rank must enter it.

        Args:
            model: the tuned model.
            everything: whether frozen parameters are needed, too.
        """
        yield

    def exchanged(self) -> Iterable[torch.Tensor]:
        """Return the tensors that this rank holds for the exchange alone, such as buckets of gradients."""
        return ()

    def seed(self, seed: int) -> int:
        """Return the seed of this rank's dropout: passes over different examples must not share their masks."""
        return seed + 1_000_003 * self.rank if self.shares > 1 else seed

    def same(self, value: float) -> float:
        """Return rank 0's value: what ranks measure for themselves must not lead them to different decisions."""
        return value

    def gathered(self, value: Any) -> list[Any]:
        """Return each rank's value, on every rank."""
        return [value]

    def first(self, value: Any) -> Any:
        """Return rank 0's value, on every rank."""
        return self.gathered(value)[0]


ALONE = Parallel()


def added_up(learner: Learner, batches: Sequence[Batch], loss_tokens: int, batch_loss: Loss) -> torch.Tensor:
    """Run forward and backward passes one after another in this process; return the sum of their losses, a scalar.

    Args:
        learner: the model and its optimizer.
        batches: the passes.
        loss_tokens: tokens in the loss of the whole step, by which each pass's loss is divided.
        batch_loss: gives the summed loss of a pass.
    """
    total = torch.zeros((), device=learner.device)
    for batch in batches:
        with autocast(learner.precision, learner.device):
            loss = batch_loss(learner.model, batch) / loss_tokens
        learner.scaler.scale(loss).backward()
        total += loss.detach()
        del loss  # frees its graph: bitsandbytes' int8 layers keep their inputs alive after the backward pass
    return total


def make(devices: Devices, rank: int, device: str) -> Parallel:
    """Return a trial's strategy as one of its ranks sees it, after ``group.join``."""
    module, _, name = _CLASSES[devices.strategy].partition(":")
    kind: Callable[[Devices, int, str], Parallel] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return kind(devices, rank, device)
