"""Peak memory: the CUDA allocator's, and the resident memory of the process. And what a model's tensors hold."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch

from peftbench.measure.ledger import account
from peftbench.records.columns.memory import MemoryColumns

KINDS = {"cpu": "tensor_accounting", "cuda": "allocator"}
"""How peaks are measured on each device."""


def held(model: Any, trains_base: bool, host: Iterable[torch.Tensor] = ()) -> dict[str, int]:
    """Return the bytes of a model's tensors by category; categories without any are absent.

    Args:
        model: the model.
        trains_base: whether its base's own weights train.
        host: tensors that are on the host for its device, which are not counted.
    """
    with account(model, trains_base, {}, host=host) as counted:
        return {name: size for name, size in counted.live.items() if size}


@dataclass
class AllocatorPeak:
    """Peaks of the CUDA allocator within a context, filled in when the context ends; None on other devices."""

    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    """What the allocator took from the device."""


@contextmanager
def allocator_peak(device: str) -> Iterator[AllocatorPeak]:
    """Measure the CUDA allocator's peaks within the context, also if it ends in an exception.

    Args:
        device: ``cuda``; on any other device nothing is measured.
    """
    peak = AllocatorPeak()
    if device != "cuda":
        yield peak
        return
    torch.cuda.synchronize()
    torch.cuda.empty_cache()  # memory reserved earlier, for loading or a larger batch, does not belong to this context
    torch.cuda.reset_peak_memory_stats()
    try:
        yield peak
    finally:
        peak.allocated_bytes = torch.cuda.max_memory_allocated()
        peak.reserved_bytes = torch.cuda.max_memory_reserved()


def so_far(device: str) -> MemoryColumns:
    """Return the peaks since the contexts of ``allocator_peak`` and ``ResidentMemory.peak`` that are open began."""
    columns = MemoryColumns(host_peak_train_bytes=_resident_peak())
    if device != "cuda":
        return columns
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return replace(columns, peak_train_bytes=allocated, peak_train_reserved_bytes=reserved)


def paged_bytes(optimizer: Any) -> int:
    """Return the bytes of an optimizer's paged state, which torch's CUDA allocator does not count."""
    tensors = (value for entry in optimizer.state.values() for value in entry.values())
    return sum(t.numel() * t.element_size() for t in tensors if getattr(t, "is_paged", False))


def paged_columns(optimizer: Any) -> MemoryColumns:
    """Return the bytes of an optimizer's paged state as a column; None for an optimizer that pages nothing."""
    paged = bool(getattr(optimizer, "is_paged", False))
    return MemoryColumns(paged_optimizer_bytes=paged_bytes(optimizer) if paged else None)


@dataclass
class ResidentPeak:
    """Peak resident memory within a context, filled in when the context ends; None if it cannot be measured."""

    bytes: int | None = None


class ResidentMemory:
    """Peak resident memory of this process.

    Linux keeps one peak per process, which can be reset. So the peak within a context is measured by a reset, and the
    peak over the whole process is the highest of all readings.
    """

    def __init__(self) -> None:
        self._highest = 0

    def highest(self) -> int:
        """Return the peak since the process began, in bytes, loaded libraries included."""
        self._highest = max(self._highest, _resident_peak())
        return self._highest

    @contextmanager
    def peak(self) -> Iterator[ResidentPeak]:
        """Measure the peak within the context, also if it ends in an exception; only where Linux can reset it."""
        self.highest()
        found, reset = ResidentPeak(), _reset_resident_peak()
        try:
            yield found
        finally:
            if reset:  # the kernel's count is approximate: a later reading can be some pages lower
                found.bytes = _resident_peak()
                self._highest = max(self._highest, found.bytes)


def _resident_peak() -> int:
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):  # not Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _reset_resident_peak() -> bool:
    """Reset the peak to what is resident now (proc(5), clear_refs); return False if the system does not allow it."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True
