"""On how many devices one trial runs, and what is divided among them. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

ONE = "one"
"""How a suite writes a trial on one device."""


@dataclass(frozen=True)
class Strategy:
    """How the work of one trial is divided among several devices."""

    name: str
    title: str
    divides: str
    """What each device has a part of, for documents."""
    data: bool
    """Whether the forward passes of a step are divided among the devices; else all devices work on each pass."""
    offloads: bool = False
    """Whether what a device holds can be kept in the host's memory between its uses."""
    devices: tuple[str, ...] = ("cpu", "cuda")


STRATEGIES: Mapping[str, Strategy] = MappingProxyType(
    {
        s.name: s
        for s in (
            Strategy("ddp", "data parallel (DDP)", "the examples of a step", data=True),
            Strategy(
                "fsdp2",
                "fully sharded (FSDP2)",
                "the examples of a step, weights, gradients and optimizer state",
                data=True,
                offloads=True,
            ),
            Strategy("zero3", "DeepSpeed ZeRO-3", "the same as fsdp2, by DeepSpeed", data=True, offloads=True),
            Strategy("tp", "tensor parallel", "each weight matrix of a layer, and its matrix product", data=False),
            Strategy("pp", "pipeline", "the decoder layers, in consecutive stages", data=False),
            Strategy(
                "device_map",
                "layers placed by accelerate's device_map",
                "the decoder layers, one process runs them one after another",
                data=False,
                devices=("cuda",),
            ),
        )
    }
)
"""Every strategy that ``devices:`` of a suite names; ``methods.strategies`` says which cells each can run."""


@dataclass(frozen=True)
class Devices:
    """The devices of one trial."""

    strategy: str
    """A name of ``STRATEGIES``."""
    count: int
    """Number of devices, each with a process of its own; with ``device_map`` one process has all."""
    offload: str = "none"
    """``cpu`` to keep weights, gradients and optimizer state in the host's memory between their uses, or ``none``."""

    @property
    def name(self) -> str:
        """The part of a cell's name: ``fsdp2x2``, ``fsdp2x4+cpu``."""
        return f"{self.strategy}x{self.count}{'' if self.offload == 'none' else f'+{self.offload}'}"

    @property
    def ranks(self) -> int:
        """Number of processes."""
        return 1 if self.strategy == "device_map" else self.count

    @property
    def shares(self) -> int:
        """Among how many devices the forward passes of a step are divided."""
        return self.count if STRATEGIES[self.strategy].data else 1


@dataclass(frozen=True)
class Place:
    """One process of a trial that has several."""

    rank: int
    """From 0; rank 0's result is the trial's."""
    meeting: str
    """A file in a temporary folder at which the ranks meet."""


def ranks(devices: Devices | None) -> int:
    """Return the number of processes of a trial; ``None`` stands for one device."""
    return devices.ranks if devices else 1
