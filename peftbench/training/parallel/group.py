"""The process group of a trial: its ranks meet at a file, and exchange tensors by gloo, or on GPUs by nccl."""

from __future__ import annotations

import os
import sys
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from peftbench.errors import Unsupported
from peftbench.records import Devices
from peftbench.records.wording import plural
from peftbench.training.parallel import Parallel, make

_PATIENCE = timedelta(days=7)
"""How long a rank waits for another: the runner ends all of them if one has died, and at the trial's time limit."""


def join(devices: Devices, rank: int, meeting: str, device: str) -> Parallel:
    """Meet the other ranks of a trial; return its strategy.

    Args:
        devices: the devices of the trial.
        rank: this process, from 0.
        meeting: file at which the ranks meet, which none has made before.
        device: ``cpu``, or ``cuda`` for the GPU with the rank's number.

    Raises:
        Unsupported: if there are fewer GPUs than ranks.
    """
    if sys.platform == "linux":  # all ranks are on this machine, whatever its name resolves to
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    backend = "gloo"
    if device == "cuda":
        if torch.cuda.device_count() < devices.count:
            raise Unsupported(f"{devices.name}: this machine has {plural(torch.cuda.device_count(), 'GPU')}")
        torch.cuda.set_device(rank)
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(
        backend, init_method=f"file://{meeting}", rank=rank, world_size=devices.count, timeout=_PATIENCE
    )
    return make(devices, rank, device)


class Grouped(Parallel):
    """What all strategies with several processes have in common."""

    def __init__(self, devices: Devices, rank: int, device: str) -> None:
        """Make the strategy of a rank.

        Args:
            devices: the devices of the trial.
            rank: this process, from 0.
            device: ``cpu`` or ``cuda``.
        """
        self.devices, self.rank, self.device = devices, rank, device
        self.count, self.shares = devices.count, devices.shares
        self.backend = "nccl" if device == "cuda" else "gloo"

    def same(self, value: float) -> float:
        """Return rank 0's value."""
        told = torch.tensor(value, dtype=torch.float64)
        distributed.broadcast(told, 0)
        return float(told)

    def gathered(self, value: Any) -> list[Any]:
        """Return each rank's value, on every rank."""
        found: list[Any] = [None] * self.count
        distributed.all_gather_object(found, value)
        return found

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor summed over the ranks."""
        distributed.all_reduce(tensor)
        return tensor
