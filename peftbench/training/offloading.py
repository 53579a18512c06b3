"""Activations kept in the host's memory between the forward and the backward pass (``train.offload``)."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from peftbench.measure import ledger
from peftbench.models.storage import parts, quantization_tensors

ACTIVATIONS = "activations"
_SMALLEST = 1024
"""Bytes below which a tensor stays where it is: copying it would cost more than it saves."""


def saved(learner: Any) -> AbstractContextManager[Any]:
    """Return the context of a step's forward and backward passes, as the learner's settings want it.

    With ``activations``, each storage that autograd saves is copied to the host once, to pinned memory from a GPU, and
    back when the backward pass needs it. Weights, buffers and quantization state stay, as they exist anyway, and so do
    tensors under 1 KiB. Of layers that are computed again, the inputs are copied; what is computed again, and what
    ``gradient_checkpointing: selective`` keeps, stays. Losses and gradients are the same bit for bit.
    """
    if not learner.training.offloads(ACTIVATIONS):
        return nullcontext()
    own = [*learner.model.parameters(), *learner.model.buffers(), *quantization_tensors(learner.model)]
    stays = {part.untyped_storage()._cdata for tensor in own for part in parts(tensor)}
    return _saved_by(_Copies(stays, learner.device))


@contextmanager
def _saved_by(copies: _Copies) -> Iterator[None]:
    _ACTIVE.append(copies)
    try:
        with torch.autograd.graph.saved_tensors_hooks(copies.pack, copies.unpack):
            yield
    finally:
        _ACTIVE.remove(copies)


def rest() -> tuple[Callable[[torch.Tensor], Any], Callable[[Any], torch.Tensor]]:
    """Return how tensors are saved and found again where hooks within a step's passes leave them to others."""
    return (_ACTIVE[-1].pack, _ACTIVE[-1].unpack) if _ACTIVE else (ledger.kept, lambda tensor: tensor)


@dataclass(eq=False)
class _Copy:
    """One storage on the host."""

    values: torch.Tensor
    """(n,): the whole storage."""
    version: int
    """Of the tensor that was copied, which counts changes in place."""
    back: weakref.ref[torch.Tensor] | None = None
    """(n,): on the device again."""


@dataclass(frozen=True)
class _View:
    """A saved tensor: where it is in a copied storage."""

    copy: _Copy
    device: torch.device
    shape: torch.Size
    strides: tuple[int, ...]
    offset: Any


class _Copies:
    """What autograd saves in one step."""

    def __init__(self, stays: set[int], device: str) -> None:
        self._stays, self._device = stays, device
        self._known: dict[weakref.ref[Any], weakref.ref[_Copy]] = {}

    def pack(self, tensor: torch.Tensor) -> Any:
        """Return what stands for a tensor until the backward pass: a copy, or itself."""
        if not self._moves(tensor):
            return ledger.kept(tensor)
        storage = tensor.untyped_storage()
        key = weakref.ref(storage, self._forget)
        found = self._known.get(key)
        copy = found() if found is not None else None
        if copy is None or copy.version != tensor._version or copy.values.dtype != tensor.dtype:
            copy = _Copy(_to_host(tensor), tensor._version)
            self._known[key] = weakref.ref(copy)
        return _View(copy, tensor.device, tensor.shape, tensor.stride(), tensor.storage_offset())

    def _moves(self, tensor: torch.Tensor) -> bool:
        plain = type(tensor) in (torch.Tensor, torch.nn.Parameter) or _is_fake(tensor)
        if not plain or tensor.layout is not torch.strided or tensor.device.type != self._device:
            return False
        storage = tensor.untyped_storage()
        return storage._cdata not in self._stays and storage.nbytes() >= _SMALLEST

    def unpack(self, packed: Any) -> torch.Tensor:
        """Return a saved tensor on its device."""
        if not isinstance(packed, _View):
            return packed  # type: ignore[no-any-return]
        copy = packed.copy
        back = copy.back() if copy.back is not None else None
        if back is None:
            back = copy.values.to(packed.device, non_blocking=True, copy=True)
            copy.back = weakref.ref(back)
        return back.as_strided(packed.shape, packed.strides, packed.offset)

    def _forget(self, key: weakref.ref[Any]) -> None:
        self._known.pop(key, None)


_ACTIVE: list[_Copies] = []


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    """Return a copy of a tensor's whole storage on the host, (n,)."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    whole = tensor.detach().as_strided((count,), (1,), 0)
    with ledger.on_host():
        host = torch.empty(count, dtype=tensor.dtype, device="cpu", pin_memory=tensor.is_cuda)
        return host.copy_(whole, non_blocking=tensor.is_cuda)


def _is_fake(tensor: torch.Tensor) -> bool:
    """Return whether a tensor is one without values, by which the planner traces a step."""
    return type(tensor).__name__ == "FakeTensor"
