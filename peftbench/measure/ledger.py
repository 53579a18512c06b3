"""Memory by category, accounted tensor by tensor: every storage that a training step makes is seen as it is made.

On the CPU there is no allocator that counts, and resident memory is noise at small scale; so extra steps outside the
timed ones run under this accountant. What an operator allocates and frees inside itself is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from peftbench.models.load import quantization_tensors

CATEGORIES = (
    "base_weights",
    "quantization_state",
    "adapter",
    "gradients",
    "optimizer",
    "activations",
    "logits",
    "temporaries",
)


@dataclass
class _Storage:
    """A live storage: how large, and under which category it is booked."""

    size: int
    category: str


@dataclass
class Book:
    """Live bytes per category, and the same at the moment when their sum was highest."""

    live: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CATEGORIES, 0))
    peak: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CATEGORIES, 0))
    peak_bytes: int = 0
    allocated_bytes: int | None = None
    """Peak by the allocator's own count, where there was one to hold the book against."""

    def add(self, category: str, size: int) -> None:
        """Book bytes (negative to take them out), and remember the peak."""
        self.live[category] += size
        total = sum(self.live.values())
        if total > self.peak_bytes:
            self.peak_bytes, self.peak = total, dict(self.live)


class Ledger(TorchDispatchMode):
    """Books every storage made while active; views and tied tensors once, freed storages no longer."""

    def __init__(self, vocabulary: int | None = None, width: int | None = None, rounding: int = 1) -> None:
        """Begin an empty book.

        Args:
            vocabulary: v: a float tensor that ends on v is logits, a copy of them, their softmax or their gradient.
            width: d of the model, to tell those from the head's gradient, a product of shape (d, v) in the backward
                pass.
            rounding: a storage takes a multiple of so many bytes.
        """
        super().__init__()
        self.book = Book()
        self._vocabulary, self._width, self._rounding = vocabulary, width, rounding
        self._storages: weakref.WeakKeyDictionary[Any, _Storage] = weakref.WeakKeyDictionary()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here; asking costs time at every operator

    def track(self, tensor: torch.Tensor, category: str, *, move: bool = True) -> None:
        """Book a tensor's storage under a category, or move it there if it was booked by its looks alone."""
        if tensor.layout is torch.sparse_coo:  # has no storage of its own (SHiRA's updates, FRoD's rotations)
            self.track(tensor._indices(), category, move=move)
            self.track(tensor._values(), category, move=move)
            return
        storage = tensor.untyped_storage()
        known = self._storages.get(storage)
        if known is None:
            entry = _Storage(-(-storage.nbytes() // self._rounding) * self._rounding, category)
            self._storages[storage] = entry
            self.book.add(category, entry.size)
            weakref.finalize(storage, self._free, entry)
        elif move and (known.category == "temporaries" or (known.category, category) == ("logits", "gradients")):
            # a weight as wide as the vocabulary has a gradient that looks like logits
            self.book.live[known.category] -= known.size
            known.category = category
            self.book.live[category] += known.size

    def _free(self, entry: _Storage) -> None:
        self.book.add(entry.category, -entry.size)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and book what it returns."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.track(leaf, "logits" if self._is_logits(leaf, func) else "temporaries", move=False)
        return out

    def _is_logits(self, tensor: torch.Tensor, func: Any) -> bool:
        if tensor.ndim < 2 or tensor.shape[-1] != self._vocabulary or not tensor.is_floating_point():
            return False
        product = func is torch.ops.aten.mm.default and torch._C._current_graph_task_id() != -1
        return not (product and tuple(tensor.shape) == (self._width, self._vocabulary))

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """Book a tensor that autograd saves for backward as an activation, unless it is a weight."""
        self.track(tensor, "activations")
        return tensor


@contextmanager
def account(
    model: nn.Module, trains_base: bool, optimizer_state: Mapping[Any, Any], rounding: int = 1
) -> Iterator[Book]:
    """Account for everything that happens within the context, beginning with what is there already.

    Args:
        model: its parameters are base weights or, where they train beside a frozen base, adapter.
        trains_base: whether the base's own weights train.
        optimizer_state: the optimizer's ``state``: parameter -> name -> tensor or number.
        rounding: a storage takes a multiple of so many bytes.
    """
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if config is not None else None
    ledger = Ledger(getattr(config, "vocab_size", None), getattr(config, "hidden_size", None), rounding)
    for tensor in quantization_tensors(model):
        ledger.track(tensor, "quantization_state")
    for tensor in tree_leaves([dict(entry) for entry in optimizer_state.values()]):
        if isinstance(tensor, torch.Tensor):
            ledger.track(tensor, "optimizer")
    trainable = [p for p in model.parameters() if p.requires_grad]
    for parameter in trainable:
        ledger.track(parameter, "base_weights" if trains_base else "adapter")
    for tensor in (*model.parameters(), *model.buffers()):
        ledger.track(tensor, "base_weights")

    def book_gradient(parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            ledger.track(parameter.grad, "gradients")

    hooks = [p.register_post_accumulate_grad_hook(book_gradient) for p in trainable]
    try:
        with torch.autograd.graph.saved_tensors_hooks(ledger.keep, lambda tensor: tensor), ledger:
            yield ledger.book
    finally:
        for hook in hooks:
            hook.remove()
