"""Memory by category, counted tensor by tensor: a dispatch mode sees every storage as it is created.

On the CPU no allocator keeps count, and resident memory is too noisy for small models. So extra steps, outside the
timed ones, run under this ledger. It does not see what an operator allocates and frees internally.
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
from peftbench.records.memory import Category

_LOOKED_LIKE_LOGITS = (Category.LOGITS, Category.GRADIENTS)
"""From and to: the gradient of a weight with v columns has the shape of logits."""


@dataclass
class _Storage:
    """A live storage: its size, and the category that it is counted under."""

    size: int
    category: Category


@dataclass
class CategoryBytes:
    """Live bytes per category now, and at the moment when their sum was highest."""

    live: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Category, 0))
    peak: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Category, 0))
    peak_bytes: int = 0
    allocated_bytes: int | None = None
    """The same peak by the allocator's own count; None if it was not measured."""

    def add(self, category: Category, size: int) -> None:
        """Count bytes (negative to remove them) and update the peak."""
        self.live[category] += size
        total = sum(self.live.values())
        if total > self.peak_bytes:
            self.peak_bytes, self.peak = total, dict(self.live)


class Ledger(TorchDispatchMode):
    """Counts the storages that exist while it is active: views and tied tensors once, until the storage is freed."""

    def __init__(self, vocabulary: int | None = None, width: int | None = None, rounding: int = 1) -> None:
        """Start with nothing counted.

        Args:
            vocabulary: v. A float tensor whose last dimension is v is taken for logits, their copy, their softmax or
                their gradient; None to count none as logits.
            width: d of the model, to recognize the gradient of the head, which is a product of shape (d, v) in the
                backward pass and not logits.
            rounding: every storage is rounded up to a multiple of this many bytes.
        """
        super().__init__()
        self.bytes = CategoryBytes()
        self._vocabulary, self._width, self._rounding = vocabulary, width, rounding
        self._storages: weakref.WeakKeyDictionary[Any, _Storage] = weakref.WeakKeyDictionary()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here; asking costs time at every operator

    def track(self, tensor: torch.Tensor, category: Category, *, move: bool = True) -> None:
        """Count a tensor's storage under a category; move it there if its category was only a guess from its shape."""
        if tensor.layout is torch.sparse_coo:  # has no storage of its own (SHiRA's updates, FRoD's rotations)
            self.track(tensor._indices(), category, move=move)
            self.track(tensor._values(), category, move=move)
            return
        storage = tensor.untyped_storage()
        known = self._storages.get(storage)
        if known is None:
            entry = _Storage(-(-storage.nbytes() // self._rounding) * self._rounding, category)
            self._storages[storage] = entry
            self.bytes.add(category, entry.size)
            weakref.finalize(storage, self._free, entry)
        elif move and (known.category == Category.TEMPORARIES or (known.category, category) == _LOOKED_LIKE_LOGITS):
            self.bytes.live[known.category] -= known.size
            known.category = category
            self.bytes.live[category] += known.size

    def _free(self, entry: _Storage) -> None:
        self.bytes.add(entry.category, -entry.size)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and count the tensors that it returns."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self.track(leaf, Category.LOGITS if self._is_logits(leaf, func) else Category.TEMPORARIES, move=False)
        return out

    def _is_logits(self, tensor: torch.Tensor, func: Any) -> bool:
        if tensor.ndim < 2 or tensor.shape[-1] != self._vocabulary or not tensor.is_floating_point():
            return False
        product = func is torch.ops.aten.mm.default and torch._C._current_graph_task_id() != -1
        return not (product and tuple(tensor.shape) == (self._width, self._vocabulary))

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        """Count a tensor that autograd saves for backward as an activation, unless it is a weight."""
        self.track(tensor, Category.ACTIVATIONS)
        return tensor


@contextmanager
def account(
    model: nn.Module, trains_base: bool, optimizer_state: Mapping[Any, Any], rounding: int = 1
) -> Iterator[CategoryBytes]:
    """Count the memory of everything within the context, starting with the tensors that exist already.

    Args:
        model: frozen parameters are counted as base weights; trainable ones as the adapter, unless ``trains_base``.
        trains_base: whether the base model's own weights are trained.
        optimizer_state: the optimizer's ``state``: parameter -> name -> tensor or number.
        rounding: every storage is rounded up to a multiple of this many bytes.

    Yields:
        The bytes by category, updated as tensors come and go.
    """
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if config is not None else None
    ledger = Ledger(getattr(config, "vocab_size", None), getattr(config, "hidden_size", None), rounding)
    for tensor in quantization_tensors(model):
        ledger.track(tensor, Category.QUANTIZATION_STATE)
    for tensor in tree_leaves([dict(entry) for entry in optimizer_state.values()]):
        if isinstance(tensor, torch.Tensor):
            ledger.track(tensor, Category.OPTIMIZER)
    trainable = [p for p in model.parameters() if p.requires_grad]
    for parameter in trainable:
        ledger.track(parameter, Category.BASE_WEIGHTS if trains_base else Category.ADAPTER)
    for tensor in (*model.parameters(), *model.buffers()):
        ledger.track(tensor, Category.BASE_WEIGHTS)

    def count_gradient(parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            ledger.track(parameter.grad, Category.GRADIENTS)

    hooks = [p.register_post_accumulate_grad_hook(count_gradient) for p in trainable]
    try:
        with torch.autograd.graph.saved_tensors_hooks(ledger.keep, lambda tensor: tensor), ledger:
            yield ledger.bytes
    finally:
        for hook in hooks:
            hook.remove()
