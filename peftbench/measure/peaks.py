"""Peaks of memory: the allocator's on CUDA, the resident memory of the process, what a model's tensors hold."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from peftbench.measure.ledger import account

KINDS = {"cpu": "tensor_accounting", "cuda": "allocator"}


def held(model: Any, trains_base: bool) -> dict[str, int]:
    """Return the bytes that a model's tensors hold, by those categories that have any."""
    with account(model, trains_base, {}) as book:
        return {name: size for name, size in book.live.items() if size}


@contextmanager
def allocator_peak(device: str, facts: dict[str, Any], column: str, reserved: str | None = None) -> Iterator[None]:
    """On CUDA, put the allocator's peak within the context into a column; elsewhere do nothing.

    Args:
        device: where the work is done.
        facts: of the trial's row.
        column: gets the peak of what is allocated.
        reserved: gets the peak of what the allocator took from the device; None for no column.
    """
    if device != "cuda":
        yield
        return
    torch.cuda.synchronize()
    torch.cuda.empty_cache()  # what was reserved before, for loading or a larger batch, is not of this work
    torch.cuda.reset_peak_memory_stats()
    try:
        yield
    finally:
        facts[column] = torch.cuda.max_memory_allocated()
        if reserved:
            facts[reserved] = torch.cuda.max_memory_reserved()


def paged_bytes(optimizer: Any) -> int:
    """Return the bytes of an optimizer's paged state, which lives outside torch's allocator on CUDA."""
    tensors = (value for entry in optimizer.state.values() for value in entry.values())
    return sum(t.numel() * t.element_size() for t in tensors if getattr(t, "is_paged", False))


@contextmanager
def resident_peak(facts: dict[str, Any], column: str) -> Iterator[None]:
    """Put the highest resident memory of this process within the context into a column, where Linux can reset it."""
    note_resident_peak(facts)
    reset = _reset_resident_peak()
    try:
        yield
    finally:
        if reset:  # the kernel's count is approximate: a later reading can be some pages lower
            facts[column] = _resident_peak()
            facts["host_peak_resident_bytes"] = max(facts["host_peak_resident_bytes"], facts[column])


def note_resident_peak(facts: dict[str, Any]) -> None:
    """Keep the highest resident memory of this process so far, libraries included, over the resets."""
    facts["host_peak_resident_bytes"] = max(facts.get("host_peak_resident_bytes", 0), _resident_peak())


def _resident_peak() -> int:
    try:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) * 1024
    except (OSError, StopIteration):  # no Linux
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _reset_resident_peak() -> bool:
    """Let the resident peak begin again at what is resident now (proc(5), clear_refs); False where it cannot."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True
