"""Memory by category, counted tensor by tensor: a dispatch mode sees every storage as it is created.

On the CPU no allocator keeps count, and resident memory is too noisy for small models. So extra steps, outside the
timed ones, run under this ledger. It does not see what an operator allocates and frees internally.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from peftbench.measure import compiled_buffers, resized_storages
from peftbench.measure.optimizer_state import flat
from peftbench.models import divided, own_weights
from peftbench.models.storage import parts, quantization_tensors
from peftbench.records.memory import Category

_LOOKED_LIKE_LOGITS = (Category.LOGITS, Category.GRADIENTS)
"""From and to: the gradient of a weight with v columns has the shape of logits."""


@dataclass
class _Storage:
    """A live storage: its size, and the category that it is counted under."""

    size: int
    category: Category | None
    fixed: bool = False
    """Whether the category is no guess."""


@dataclass
class CategoryBytes:
    """Live bytes per category now, and at the moment when their sum was highest."""

    live: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Category, 0))
    peak: dict[str, int] = field(default_factory=lambda: dict.fromkeys(Category, 0))
    peak_bytes: int = 0
    offloaded: int = 0
    """Bytes now on the host that a step moved there; in no category, as they are not on the device."""
    offloaded_peak: int = 0
    """Most of these at one moment of the step."""
    allocated_bytes: int | None = None
    """The same peak by the allocator's own count; None if it was not measured."""
    _total: int = field(default=0, repr=False)
    """Sum of ``live``."""

    def add(self, category: Category | None, size: int) -> None:
        """Count bytes (negative to remove them) and update the peak; None for what is on the host."""
        if category is None:
            self.offloaded += size
            self.offloaded_peak = max(self.offloaded_peak, self.offloaded)
            return
        self.live[category] += size
        self._total += size
        if self._total > self.peak_bytes:
            self.peak_bytes, self.peak = self._total, dict(self.live)


_COMPOSED = ("Float8TrainingTensor",)
"""Types of tensors whose operators are made of others, and that have no storage of their own: torchao's factors of a
product in 8-bit floats."""


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
        # not a WeakKeyDictionary with finalizers: they take as long as a small operator does
        self._storages: dict[weakref.ref[Any], _Storage] = {}
        self.on_host = False
        """Whether new storages are those of the host."""
        self.as_category: Category | None = None
        """What new storages are counted as; None if that depends on them."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here; asking costs time at every operator

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let compiled layers run so."""
        return True

    def track(self, tensor: torch.Tensor, category: Category, *, move: bool = True) -> None:
        """Count a tensor's storage under a category; move it there if its category was only a guess from its shape."""
        inner = parts(tensor)
        if len(inner) > 1:  # a weight of torchao has no storage of its own
            for part in inner:
                self.track(part, category, move=move)
            return
        if tensor.layout is torch.sparse_coo:  # has no storage of its own (SHiRA's updates, FRoD's rotations)
            self.track(tensor._indices(), category, move=move)
            self.track(tensor._values(), category, move=move)
            return
        storage = divided.own(tensor).untyped_storage()
        known = self._storages.get(weakref.ref(storage))
        if known is None:
            self._add(storage, category)
        elif (
            move
            and not known.fixed
            and (known.category == Category.TEMPORARIES or (known.category, category) == _LOOKED_LIKE_LOGITS)
        ):
            self._move(known, category)

    def track_gathered(self, tensor: torch.Tensor) -> None:
        """Count a weight that was gathered from several devices as a temporary, also when autograd saves it."""
        storage = tensor.untyped_storage()
        entry = self._storages.get(weakref.ref(storage)) or self._add(storage, Category.TEMPORARIES)
        if entry.category in (Category.TEMPORARIES, Category.LOGITS):
            self._move(entry, Category.TEMPORARIES)
            entry.fixed = True

    def track_on_host(self, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors that exist already as on the host."""
        self.on_host = True
        for tensor in tensors:
            self.track(tensor, Category.TEMPORARIES)
        self.on_host = False

    def resized(self, storage: Any) -> None:
        """Count a storage anew whose size was changed, as FSDP2 does with gathered weights."""
        entry = self._storages.get(weakref.ref(storage))
        if entry is None:
            self._add(storage, Category.TEMPORARIES)
        else:
            size = self._rounded(storage)
            self.bytes.add(entry.category, size - entry.size)
            entry.size = size

    def _add(self, storage: Any, category: Category) -> _Storage:
        entry = _Storage(self._rounded(storage), None if self.on_host else self.as_category or category)
        self._storages[weakref.ref(storage, self._free)] = entry
        self.bytes.add(entry.category, entry.size)
        return entry

    def _rounded(self, storage: Any) -> int:
        size: int = -(-storage.nbytes() // self._rounding) * self._rounding
        return size

    def _move(self, entry: _Storage, category: Category) -> None:
        assert entry.category is not None
        self.bytes.live[entry.category] -= entry.size
        entry.category = category
        self.bytes.live[category] += entry.size

    def _free(self, storage: weakref.ref[Any]) -> None:
        entry = self._storages.pop(storage)
        self.bytes.add(entry.category, -entry.size)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and count the tensors that it returns; of some types, those that it makes meanwhile."""
        if any(kind.__name__ in _COMPOSED for kind in types):
            return NotImplemented  # the type's own code runs, and its operators come here
        out = func(*args, **(kwargs or {}))
        for leaf in (out,) if isinstance(out, torch.Tensor) else tree_leaves(out):
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


class _OfCompiled(Ledger):
    """The same beside compiled code: torch must not compile what counts. Asking costs time at every operator."""

    supports_higher_order_operators = True

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return super().__torch_dispatch__(func, types, args, kwargs)

    @torch._disable_dynamo  # type: ignore[untyped-decorator]
    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        return super().keep(tensor)


_ACTIVE: list[Ledger] = []


class Keeping(TorchDispatchMode):
    """Lets active ledgers count the results of some operators as activations, which something else than autograd keeps.

    It is entered before the mode that keeps them, so that it sees the results first.
    """

    def __init__(self, keeps: Callable[[Any, Any, Any], bool]) -> None:
        """Start with whether the results of an operator, arguments and keyword arguments are kept."""
        super().__init__()
        self._keeps = keeps

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator."""
        out = func(*args, **(kwargs or {}))
        if self._keeps(func, args, kwargs or {}):
            for leaf in tree_leaves(out):
                for active in _ACTIVE if isinstance(leaf, torch.Tensor) else ():
                    active.keep(leaf)
        return out


def kept(tensor: torch.Tensor) -> torch.Tensor:
    """Let active ledgers count a tensor as an activation: autograd saves it by a hook that hides it from them."""
    for active in _ACTIVE:
        active.keep(tensor)
    return tensor


def on_host() -> AbstractContextManager[None]:
    """Let active ledgers count what is made within the context as on the host."""
    return _setting("on_host", True)


def counted_as(category: Category) -> AbstractContextManager[None]:
    """Let active ledgers count what is made within the context under a category, whatever its shape."""
    return _setting("as_category", category)


@contextmanager
def _setting(name: str, value: Any) -> Iterator[None]:
    before = [(active, getattr(active, name)) for active in _ACTIVE]
    for active, _ in before:
        setattr(active, name, value)
    try:
        yield
    finally:
        for active, was in before:
            setattr(active, name, was)


def is_active() -> bool:
    """Return whether memory is being counted."""
    return bool(_ACTIVE)


@contextmanager
def account(
    model: nn.Module,
    trains_base: bool,
    optimizer_state: Mapping[Any, Any],
    rounding: int = 1,
    gradients: Iterable[torch.Tensor] = (),
    host: Iterable[torch.Tensor] = (),
    compiled: bool = False,
) -> Iterator[CategoryBytes]:
    """Count the memory of everything within the context, starting with the tensors that exist already.

    Args:
        model: frozen parameters are counted as base weights, but for a method's own; these and trainable ones as the
            adapter, unless ``trains_base``.
        trains_base: whether the base model's own weights are trained.
        optimizer_state: the optimizer's ``state``: parameter -> name -> tensor or number.
        rounding: every storage is rounded up to a multiple of this many bytes.
        gradients: tensors that exist already and will hold gradients.
        host: tensors that exist already and are on the host for the device, whatever else they are.
        compiled: whether code runs that was compiled before, whose buffers are counted too.

    Yields:
        The bytes by category, updated as tensors come and go.
    """
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if config is not None else None
    sizes = getattr(config, "vocab_size", None), getattr(config, "hidden_size", None)
    ledger = (_OfCompiled if compiled else Ledger)(*sizes, rounding)
    ledger.track_on_host(host)
    for tensor in quantization_tensors(model):
        ledger.track(tensor, Category.QUANTIZATION_STATE)
    for tensor in tree_leaves([flat(entry) for entry in optimizer_state.values()]):
        if isinstance(tensor, torch.Tensor):
            ledger.track(tensor, Category.OPTIMIZER)
    trainable = [p for p in model.parameters() if p.requires_grad]
    for parameter in (*trainable, *filter(own_weights.frozen, model.parameters())):
        ledger.track(parameter, Category.BASE_WEIGHTS if trains_base else Category.ADAPTER)
    for tensor in (*model.parameters(), *model.buffers()):
        ledger.track(tensor, Category.BASE_WEIGHTS)

    for tensor in gradients:
        ledger.track(tensor, Category.GRADIENTS)

    def count_gradient(parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            ledger.track(parameter.grad, Category.GRADIENTS)

    hooks = [p.register_post_accumulate_grad_hook(count_gradient) for p in trainable]
    hooks += [m.register_forward_pre_hook(_count_gathered(ledger)) for m in model.modules() if _gathers(m)]
    _ACTIVE.append(ledger)
    made = partial(ledger.track, category=Category.TEMPORARIES, move=False)
    buffers = compiled_buffers.seen(made) if compiled else nullcontext()
    try:
        saved = torch.autograd.graph.saved_tensors_hooks(ledger.keep, lambda tensor: tensor)
        with buffers, resized_storages.seen(ledger.resized), saved, ledger:
            yield ledger.bytes
    finally:
        _ACTIVE.remove(ledger)
        for hook in hooks:
            hook.remove()


def _gathers(module: nn.Module) -> bool:
    """Return whether a module's parameters are gathered from several devices before its forward pass (FSDP2)."""
    return hasattr(module, "unshard") and any(divided.is_divided(p) for p in module.parameters())


def _count_gathered(ledger: Ledger) -> Callable[[nn.Module, Any], None]:
    """Return a hook that runs after FSDP2's own has gathered a module's parameters."""

    def count(module: nn.Module, _: Any) -> None:
        for parameter in module.parameters():
            if not divided.is_divided(parameter):
                ledger.track_gathered(parameter)

    return count
