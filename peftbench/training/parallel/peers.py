"""The processes that share one copy of a model, as one of them sees them, and the gradient norm over all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import DeviceMesh


@dataclass(frozen=True)
class Peers:
    """The processes among which something is divided."""

    index: int
    """This process's place among them, from 0."""
    count: int
    group: Any
    """Their process group."""

    def add(self, tensor: torch.Tensor) -> torch.Tensor:
        """Add up a tensor over the processes, in place."""
        distributed.all_reduce(tensor, group=self.group)
        return tensor

    def send_all(self, tensor: torch.Tensor, source: int) -> None:
        """Fill a tensor with that of one of the processes, in place."""
        distributed.broadcast(tensor, group=self.group, group_src=source)

    def collect(self, tensor: torch.Tensor, dim: int) -> torch.Tensor:
        """Return the processes' tensors joined along a dimension."""
        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        distributed.all_gather(parts, tensor.contiguous(), group=self.group)
        return torch.cat(parts, dim)


def of(mesh: DeviceMesh) -> Peers:
    """Return the processes along the only axis of a mesh."""
    return Peers(mesh.get_local_rank(), mesh.size(), mesh.get_group())


@torch.no_grad()
def clip(
    parameters: Sequence[nn.Parameter], counted: Sequence[nn.Parameter], limit: float | None, peers: Peers
) -> float:
    """Clip the gradients by their norm over the whole model, and return that norm.

    Args:
        parameters: the parameters that this process trains.
        counted: those of which it counts the gradient; of the others another process does.
        limit: largest norm; None for no clipping.
        peers: the processes that together count every gradient once.
    """
    gradients = [p.grad for p in counted if p.grad is not None]
    device = parameters[0].device
    own = nn.utils.get_total_norm(gradients) if gradients else torch.zeros((), device=device)
    total = peers.add(own.float().square().reshape(1)).sqrt()[0]
    nn.utils.clip_grads_with_norm_(parameters, math.inf if limit is None else limit, total)
    return float(total)
