"""Frozen weights on the host: a decoder layer's are on the device while it computes (``train.offload: weights``).

Before a layer's forward pass its frozen weights are copied to the device, and afterwards the copies are dropped. What
autograd saves of them is no tensor but a reference, from which the backward pass fetches one weight at a time. A layer
that is computed again in the backward pass fetches its weights for that. Values are the same bit for bit.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from peftbench.errors import Unsupported
from peftbench.measure import ledger
from peftbench.models import own_weights
from peftbench.models.layers import decoder_layers
from peftbench.models.storage import parts
from peftbench.records import Category, Training
from peftbench.training import offloading

_SMALLEST = 1024
"""Bytes below which a weight stays where it is: copying it would cost more than it saves."""
_HELD = "peftbench_host_weights"


@dataclass(eq=False)
class _Weight:
    """One frozen parameter."""

    parameter: Any
    host: torch.Tensor
    """Its values, of its shape; in pinned memory from a GPU."""
    device: torch.device
    category: Category
    """What its copy on the device is counted as."""
    back: weakref.ref[torch.Tensor] | None = None
    """Its copy on the device, while there is one."""

    def fetched(self) -> torch.Tensor:
        """Return its values on the device."""
        found = self.back() if self.back is not None else None
        if found is None:
            with ledger.counted_as(self.category):
                found = self.host.to(self.device, non_blocking=True, copy=True)
            self.back = weakref.ref(found)
        return found


@dataclass(frozen=True)
class _Reference:
    """A saved tensor that is a part or another view of a weight."""

    weight: _Weight
    shape: torch.Size
    strides: tuple[int, ...]
    offset: Any


class _Layer:
    """A decoder layer with what brings its weights: hooks, and within checkpointing what is called twice."""

    def __init__(self, layer: Any, weights: Sequence[_Weight], training: Training) -> None:
        self.weights, self._layer, self._training = weights, layer, training
        self._saving: list[AbstractContextManager[Any]] = []
        self._hooks = (
            layer.register_forward_pre_hook(self._before, prepend=True),
            layer.register_forward_hook(self._after, always_call=True),
        )
        self._checkpoint = getattr(layer, "_gradient_checkpointing_func", None)
        if training.gradient_checkpointing:  # which transformers puts inside or outside of hooks, by its version
            inner = self._checkpoint
            settings = getattr(inner, "keywords", {})
            layer._gradient_checkpointing_func = partial(self._twice, getattr(inner, "func", inner), **settings)

    def release(self) -> None:
        """Leave the weights on the device."""
        for hook in self._hooks:
            hook.remove()
        if self._training.gradient_checkpointing:
            self._layer._gradient_checkpointing_func = self._checkpoint
        for weight in self.weights:
            weight.parameter.data = weight.host.to(weight.device)

    def _fetch(self) -> None:
        for weight in self.weights:
            weight.parameter.data = weight.fetched()

    def _drop(self) -> None:
        for weight in self.weights:
            weight.parameter.data = weight.host

    def _before(self, layer: Any, _: Any) -> None:
        if self._training.gradient_checkpointing and layer.gradient_checkpointing and layer.training:
            return
        self._fetch()
        if torch.is_grad_enabled():
            self._saving.append(_Saving(self.weights).hooks())
            self._saving[-1].__enter__()

    def _after(self, *_: Any) -> None:
        if self._saving:
            self._saving.pop().__exit__(None, None, None)
        self._drop()

    def _twice(self, checkpoint: Any, function: Any, *args: Any, **settings: Any) -> Any:
        """Checkpoint a function that needs the weights, now and when it is computed again.

        Other parameters stand for them then: checkpointing keeps what is saved of a frozen one as the parameter itself,
        which would be on the host again when it is needed.
        """

        def brought(*given: Any, **named: Any) -> Any:
            others = {id(weight.parameter): _other(weight) for weight in self.weights}
            places = [(m._parameters, name, p) for m in self._layer.modules() for name, p in m._parameters.items()]
            places = [(holder, name, p) for holder, name, p in places if id(p) in others]
            for holder, name, parameter in places:
                holder[name] = others[id(parameter)]
            try:
                return function(*given, **named)
            finally:
                for holder, name, parameter in places:
                    holder[name] = parameter

        return checkpoint(brought, *args, **settings)


def _other(weight: _Weight) -> nn.Parameter:
    """Return another parameter with a weight's values on the device."""
    made = nn.Parameter(weight.fetched(), requires_grad=False)
    made.__dict__.update(vars(weight.parameter))
    return made


class _Saving:
    """What autograd saves in one forward pass of a layer: references to its weights; the rest as without them."""

    def __init__(self, weights: Sequence[_Weight]) -> None:
        self._of = {weight.parameter.untyped_storage()._cdata: weight for weight in weights}
        self._pack, self._unpack = offloading.rest()

    def hooks(self) -> AbstractContextManager[Any]:
        """Return the context of the forward pass."""
        return torch.autograd.graph.saved_tensors_hooks(self.pack, self.unpack)

    def pack(self, tensor: torch.Tensor) -> Any:
        """Return what stands for a tensor until the backward pass."""
        weight = self._of.get(tensor.untyped_storage()._cdata) if tensor.layout is torch.strided else None
        if weight is None or tensor.dtype != weight.host.dtype:
            return self._pack(tensor)
        return _Reference(weight, tensor.shape, tensor.stride(), tensor.storage_offset())

    def unpack(self, packed: Any) -> torch.Tensor:
        """Return a saved tensor on its device."""
        if isinstance(packed, _Reference):
            return packed.weight.fetched().as_strided(packed.shape, packed.strides, packed.offset)
        return self._unpack(packed)


def install(model: Any, training: Training) -> None:
    """Move the frozen weights of a model's decoder layers to the host, where its settings want it.

    Args:
        model: a base model with a method attached, on its device.
        training: the settings.

    Raises:
        Unsupported: if the decoder layers are not known, their checkpointing is the model's own, or none has frozen
            weights and the settings want these alone.
    """
    if not training.offloads("weights"):
        return
    known: dict[int, _Weight] = {}
    found = [_Layer(layer, _weights(layer, known), training) for layer in _layers(model, training)]
    if not known and training.offload == "weights":
        raise Unsupported("offload: weights: no decoder layer has frozen weights; use offload: optimizer")
    setattr(model, _HELD, found)


def _layers(model: Any, training: Training) -> Sequence[Any]:
    from transformers.modeling_layers import GradientCheckpointingLayer

    where = f"offload: {training.offload}"
    try:
        layers = decoder_layers(model)
    except LookupError as error:
        raise Unsupported(f"{where}: {error}; use offload: activations") from None
    if training.gradient_checkpointing and not all(isinstance(layer, GradientCheckpointingLayer) for layer in layers):
        raise Unsupported(
            f"{where}: the model's own code decides what is computed again, as its layers are no "
            "GradientCheckpointingLayer of transformers; use gradient_checkpointing: false, or offload: activations"
        )
    return list(layers)


def _weights(layer: Any, known: dict[int, _Weight]) -> Sequence[_Weight]:
    """Return a layer's frozen weights; those that it shares with a layer before it are the same objects."""
    for parameter in layer.parameters():
        moves = not parameter.requires_grad and parameter.nbytes >= _SMALLEST and len(parts(parameter)) == 1
        if moves and id(parameter) not in known:
            known[id(parameter)] = _moved(parameter)
    return [known[id(parameter)] for parameter in layer.parameters() if id(parameter) in known]


def _moved(parameter: Any) -> _Weight:
    own = parameter.data
    if own.is_cuda:
        own = torch.empty_like(own, device="cpu", pin_memory=True).copy_(own)
    kind = Category.ADAPTER if own_weights.frozen(parameter) else Category.BASE_WEIGHTS
    weight = _Weight(parameter, own, parameter.device, kind)
    parameter.data = own
    return weight


def release(model: Any) -> None:
    """Move all weights back to the device; nothing happens if they are there."""
    for layer in model.__dict__.pop(_HELD, ()):
        layer.release()


def held(model: Any) -> Iterator[torch.Tensor]:
    """Yield the weights that are on the host."""
    for layer in model.__dict__.get(_HELD, ()):
        yield from (weight.host for weight in layer.weights)
