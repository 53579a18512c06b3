"""The forward passes of a step divided among the ranks: what DDP and FSDP2 share, and DDP itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from peftbench.models.load import autocast
from peftbench.models.precision import Precision
from peftbench.records import Devices
from peftbench.training.batches import Batch
from peftbench.training.parallel import Loss
from peftbench.training.parallel.group import Grouped

if TYPE_CHECKING:
    from peftbench.training.loop import Learner


def own(batches: Sequence[Batch], rank: int, count: int) -> list[tuple[Batch, bool]]:
    """Return the passes of a rank, and whether each counts.

    All ranks run equally many, since each pass exchanges tensors. A rank without a micro-batch of its own in the last
    round runs the first one again, with a weight of zero.
    """
    rounds = -(-len(batches) // count)
    places = [round_ * count + rank for round_ in range(rounds)]
    return [(batches[p], True) if p < len(batches) else (batches[0], False) for p in places]


class DataParallel(Grouped):
    """Each rank runs a part of the passes; the gradients are summed, those of the loss over the whole step."""

    multiplied = 1
    """What the loss of a pass is multiplied by, since the exchange divides by it."""

    def gradients(self, learner: Learner, batches: Sequence[Batch], batch_loss: Loss) -> torch.Tensor:
        """Run this rank's passes of a step; return the mean loss of the whole step."""
        loss_tokens = sum(batch.loss_tokens for batch in batches)
        total = torch.zeros((), device=learner.device)
        passes = own(batches, self.rank, self.count)
        for place, (batch, counts) in enumerate(passes):
            weight = self.multiplied * counts
            with self.exchanging(learner, last=place == len(passes) - 1) as model:
                with autocast(learner.precision, learner.device):
                    loss = batch_loss(model, batch) / loss_tokens * weight
                learner.scaler.scale(loss).backward()
            if counts:  # a loss that is not finite times zero is not zero
                total += loss.detach() / self.multiplied
            del loss
        return self.total(total)

    def exchanging(self, learner: Learner, last: bool) -> Any:
        """Return a context that yields what to call in a pass.

        Args:
            learner: the model and its optimizer.
            last: whether it is the rank's last pass of the step.
        """
        raise NotImplementedError


class _Buckets:
    """Sums DDP's buckets of gradients over the ranks, and knows them for the memory ledger."""

    def __init__(self) -> None:
        self.seen: dict[int, torch.Tensor] = {}

    def reduce(self, bucket: Any) -> Any:
        """Sum one bucket; DDP's default divides by the number of ranks."""
        tensor = bucket.buffer()
        self.seen[bucket.index()] = tensor
        return distributed.all_reduce(tensor, async_op=True).get_future().then(lambda _: tensor)


class Replicated(DataParallel):
    """DDP: every rank has the whole model, its gradients and the optimizer's state.

    References:
        Li et al. 2020, arXiv:2006.15704.
    """

    copies = True

    def __init__(self, devices: Devices, rank: int, device: str) -> None:
        super().__init__(devices, rank, device)
        self.scores = rank == 0
        self._wrapper: Any = None
        self._buckets = _Buckets()
        self._steps = 0

    def distribute(self, model: Any, precision: Precision) -> None:
        """Wrap the model for the passes of training; everything else calls the model itself."""
        self._wrapper = DistributedDataParallel(
            model,
            init_sync=False,  # the ranks made the same weights from the same seed, which the trial checks
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            find_unused_parameters=_may_leave_out(model),
        )
        # torch refuses annotations that are text, as they are in this file
        self._wrapper.register_comm_hook(self._buckets, lambda buckets, bucket: buckets.reduce(bucket))

    def gradients(self, learner: Learner, batches: Sequence[Batch], batch_loss: Loss) -> torch.Tensor:
        """Run this rank's passes of a step; return the mean loss of the whole step."""
        if self._steps == 1:  # DDP makes its buckets anew now; held here, the old ones would stay beside them
            self._buckets.seen.clear()
        self._steps += 1
        return super().gradients(learner, batches, batch_loss)

    def exchanging(self, learner: Learner, last: bool) -> Any:
        """Return the context of a pass: gradients are exchanged in the last pass of a step."""
        return _Calling(self._wrapper, nullcontext() if last else self._wrapper.no_sync())

    def take_up(self, learner: Learner, batch: Batch, batch_loss: Loss) -> None:
        """Run a pass, after which DDP has its buckets in the order in which gradients came, as after any first step.

        An element's place in them decides how its sum over three or more ranks is rounded.
        """
        learner.model.train()
        self.gradients(learner, [batch], batch_loss)
        learner.optimizer.zero_grad(set_to_none=True)

    def settle(self, model: Any) -> None:
        """Forget the wrapper and its buckets."""
        self._wrapper, self._buckets = None, _Buckets()

    def exchanged(self) -> Iterable[torch.Tensor]:
        """Return the buckets, in which the gradients are."""
        return self._buckets.seen.values()


class _Calling:
    """A context that yields a model within another context."""

    def __init__(self, model: Any, within: Any) -> None:
        self._model, self._within = model, within

    def __enter__(self) -> Any:
        self._within.__enter__()
        return self._model

    def __exit__(self, *error: Any) -> None:
        self._within.__exit__(*error)


def _may_leave_out(model: Any) -> bool:
    """Return whether a pass may leave out trainable weights: those of experts to which no token goes."""
    text = model.config.get_text_config()
    names = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
    return any(getattr(text, name, None) for name in names)
