"""A model divided among processes along up to three axes: copies of it, stages of each copy, shares of each layer.

``tp`` has shares alone and ``pp`` stages alone; all three together are what the literature calls 3D parallelism. The
shares are innermost, since they exchange most: with S stages and T shares, process (c, s, t) has rank (c S + s) T + t.
Of C copies each takes every C-th micro-batch of a step; every loss is divided by the loss tokens of the whole step, so
that gradients are added up over the copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from peftbench.errors import Unsupported
from peftbench.models.precision import Precision
from peftbench.records import Devices
from peftbench.training.batches import IGNORED, Batch
from peftbench.training.parallel import Loss, added_up, peers, pipeline, tensor
from peftbench.training.parallel.alike import padded_alike
from peftbench.training.parallel.data import own
from peftbench.training.parallel.group import Grouped
from peftbench.training.parallel.peers import Peers

if TYPE_CHECKING:
    from peftbench.training.loop import Learner

AXES = ("copies", "stages", "shares")


class Divided(Grouped):
    """One process's part of a model that is divided along all three axes."""

    def __init__(self, devices: Devices, rank: int, device: str, sizes: Sequence[int]) -> None:
        """Make the strategy of a rank.

        Args:
            devices: the devices of the trial.
            rank: this process, from 0.
            device: ``cpu`` or ``cuda``.
            sizes: the number of processes along each of ``AXES``.
        """
        super().__init__(devices, rank, device)
        self.shares, self.scores = sizes[0], rank == 0
        mesh = init_device_mesh(device, tuple(sizes), mesh_dim_names=AXES)
        self._along = [peers.of(mesh[name]) for name in AXES]
        self._copy = peers.of(mesh["stages", "shares"]._flatten())
        self._shares: tensor.Shares | None = None
        self._pipe: pipeline.Pipe | None = None
        self._copies: Peers | None = None

    def distribute(self, model: Any, precision: Precision) -> None:
        """Keep this rank's part of a model.

        Raises:
            Unsupported: if the model or its method cannot be divided so.
        """
        copies, stages, shares = self._along
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        if getattr(base, "peftbench_head", None) is not None:
            raise Unsupported(f"{self.devices.strategy}: a head for whole texts is not divided; use ddp")
        if shares.count > 1:
            self._shares = tensor.divide(model, shares)
        if stages.count > 1:
            self._pipe = pipeline.cut(model, stages, precision, self.device)
        self._copies = copies if copies.count > 1 else None

    def gradients(self, learner: Learner, batches: Sequence[Batch], batch_loss: Loss) -> torch.Tensor:
        """Run the passes of a step through this rank's part; return the mean loss of the whole step."""
        loss_tokens = sum(batch.loss_tokens for batch in batches)
        mine = list(batches)
        if self._copies:
            mine = [b if counts else _lossless(b) for b, counts in own(batches, self._copies.index, self._copies.count)]
        if self._pipe:
            total = self._pipe.gradients(learner, mine, loss_tokens)
        else:
            total = added_up(learner, mine, loss_tokens, batch_loss)
        if self._copies:
            self._copies.add(total)
            for parameter in learner.parameters:
                assert parameter.grad is not None
                self._copies.add(parameter.grad)
        return total

    def as_run(self, batches: Sequence[Batch], pad_id: int) -> list[Batch]:
        """Return the micro-batches of a step; through a pipeline all have one shape."""
        return padded_alike(batches, pad_id) if self._pipe else list(batches)

    def work(self, learner: Learner, batches: Sequence[Batch], batch_loss: Loss) -> None:
        """Run the passes of a step through this rank's part."""
        self.gradients(learner, batches, batch_loss)

    def all_work(self, operations: int) -> int:
        """Return the operations of all ranks together; what each does for itself counts for each."""
        return sum(self.gathered(operations))

    def clip(self, parameters: Sequence[nn.Parameter], limit: float | None) -> float:
        """Clip by the norm over the whole model, of which every gradient is counted once."""
        counted = list(parameters)
        for part in (self._shares, self._pipe):
            counted = part.counted(counted) if part else counted
        return peers.clip(parameters, counted, limit, self._copy)

    def evaluated_loss(self, learner: Learner, batch: Batch, batch_loss: Loss) -> float:
        """Return the summed loss of a batch without gradients, the same on every rank."""
        if self._pipe:
            return self._pipe.evaluated_loss(batch)
        return super().evaluated_loss(learner, batch, batch_loss)

    def settle(self, model: Any) -> None:
        """Make the model whole on every rank."""
        if self._pipe:
            self._pipe.join()
        if self._shares:
            self._shares.join()
        self._pipe = self._shares = None

    def seed(self, seed: int) -> int:
        """Return the seed of this rank's dropout: copies and stages have masks of their own."""
        return seed + 1_000_003 * (self.rank // self._along[2].count)


def _lossless(batch: Batch) -> Batch:
    """Return a batch that adds nothing to the loss."""
    return replace(batch, labels=torch.full_like(batch.labels, IGNORED))


class TensorParallel(Divided):
    """Shares of each layer: see ``tensor``."""

    def __init__(self, devices: Devices, rank: int, device: str) -> None:
        super().__init__(devices, rank, device, (1, 1, devices.count))


class Pipelined(Divided):
    """Stages of the model: see ``pipeline``."""

    def __init__(self, devices: Devices, rank: int, device: str) -> None:
        super().__init__(devices, rank, device, (1, devices.count, 1))
