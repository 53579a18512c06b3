"""FSDP2: weights, gradients and optimizer state divided among the ranks, gathered layer by layer when they are used.

References:
    Rajbhandari et al. 2020, arXiv:1910.02054 (ZeRO-3); Zhao et al. 2023, arXiv:2304.11277 (FSDP).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from peftbench.errors import Unsupported
from peftbench.models import divided, head
from peftbench.models.layers import decoder_layers
from peftbench.models.precision import Precision
from peftbench.records import Devices
from peftbench.records.wording import abridged
from peftbench.training.parallel import shards
from peftbench.training.parallel.data import DataParallel

if TYPE_CHECKING:
    from peftbench.training.loop import Learner


class FullySharded(DataParallel):
    """FSDP2 with a group for each decoder layer, and one for everything outside of them.

    A group's weights are gathered before its forward and its backward pass and freed after both, also those of the
    outermost group, which FSDP2 would keep by default: parameters are then shards whenever no pass runs. Gradients are
    exchanged after each pass.
    """

    early = True

    def __init__(self, devices: Devices, rank: int, device: str) -> None:
        super().__init__(devices, rank, device)
        self._mesh = init_device_mesh(device, (self.count,))
        self.multiplied = self.count  # FSDP2 takes the mean over the ranks

    def distribute(self, model: Any, precision: Precision) -> None:
        """Divide the parameters; the method's own, in layers or outside, are divided as those of the base model."""
        layers = _layers(model)
        said = {name: shards.marks(p) for name, p in model.named_parameters(remove_duplicate=False)}
        _plain_four_bit(model)
        settings: dict[str, Any] = {"mesh": self._mesh, "reshard_after_forward": True}
        if self.devices.offload == "cpu":
            settings["offload_policy"] = CPUOffloadPolicy(pin_memory=self.device == "cuda")
        for layer in layers:
            fully_shard(layer, **settings)
        fully_shard(model, **settings)
        if hasattr(model, "generate"):
            register_fsdp_forward_method(model, "generate")
        for name, parameter in model.named_parameters(remove_duplicate=False):
            vars(parameter).update(said[name])  # what a method, or the base model's class, says of a parameter

    def divide(self, model: Any, precision: Precision, sends: bool) -> None:
        """Divide a model on the host among the ranks' devices, of which none ever holds it whole."""
        if not sends:
            self.distribute(model, precision)
            shards.move_others(model, self.device)
            return
        _layers(model)
        values = shards.taken(model)
        self.distribute(model, precision)
        here = values if self.rank == 0 else None
        shards.fill(model, here, self.rank, self.count, self.device, self.devices.offload == "cpu")

    @contextmanager
    def in_parts(self, model: Any) -> Iterator[None]:
        """Gather what is outside of the layers; a layer gathers itself when it is called."""
        model._get_fsdp_state()._lazy_init()  # else the part that is called first would count as the whole model
        model.unshard()
        try:
            yield
        finally:
            model.reshard()

    def exchanging(self, learner: Learner, last: bool) -> Any:
        """Return the context of a pass: gradients are exchanged in each."""
        return nullcontext(learner.model)

    def clip(self, parameters: Sequence[nn.Parameter], limit: float | None) -> float:
        """Clip by the norm over the shards of all ranks."""
        norm = nn.utils.clip_grad_norm_(parameters, math.inf if limit is None else limit)
        return float(divided.whole(norm))

    @contextmanager
    def whole(self, model: Any, everything: bool) -> Iterator[None]:
        """Put whole tensors in the places of rank 0's shards, on the host, and gather one after another."""
        kept = [
            (module, name, p)
            for module in model.modules()
            for name, p in module._parameters.items()
            if isinstance(p, DTensor) and (everything or p.requires_grad)
        ]
        made: dict[int, Any] = {}
        classes = [(m, type(m)) for m in model.modules() if isinstance(m, FSDPModule)]
        try:
            for module, name, p in kept:
                if id(p) not in made:
                    found = p.full_tensor().detach()
                    made[id(p)] = nn.Parameter(found.cpu(), p.requires_grad) if self.rank == 0 else p
                module._parameters[name] = made[id(p)]
            for module, kind in classes:  # files name the model's own class
                module.__class__ = kind.__bases__[1]
            yield
        finally:
            for module, kind in classes:
                module.__class__ = kind
            for module, name, p in kept:
                module._parameters[name] = p


def _layers(model: Any) -> nn.ModuleList:
    """Return the decoder layers of a model that can be divided.

    Raises:
        Unsupported: if it cannot.
    """
    try:
        layers = decoder_layers(model)
    except LookupError as error:
        raise Unsupported(f"fsdp2: {error}") from None
    _check_hooks(model)
    _check_groups(model, layers)
    return layers


def _plain_four_bit(model: Any) -> None:
    """Store the codes of 4-bit layers as plain tensors, which FSDP2 can divide, with their scales in the layer.

    bitsandbytes' layers take the scales from there if the weight has none. Scales are not divided.
    """
    for module in model.modules():
        weight = module._parameters.get("weight")
        state = getattr(weight, "quant_state", None)
        if weight is not None and state is not None:
            module.quant_state = state
            plain = weight.data.as_subclass(torch.Tensor)
            module._parameters["weight"] = nn.Parameter(plain, requires_grad=False)


def _check_groups(model: Any, layers: Iterable[nn.Module]) -> None:
    """Refuse what does not fit groups that are gathered one after another.

    Raises:
        Unsupported: if layers share a parameter, or the model has a decoder's head for whole texts: its logits are
            taken from within the model, and FSDP2 follows what the model returns.
    """
    placed = head.placed_in(model)
    if placed is not None and placed.reads_last:
        raise Unsupported("fsdp2: a decoder's head for whole texts is not divided; use ddp")
    seen: set[int] = set()
    for layer in layers:
        named = dict(layer.named_parameters())
        if shared := [name for name, p in named.items() if id(p) in seen]:
            raise Unsupported(
                f"fsdp2: layers share parameters ({abridged(shared, 2)}), and each layer is gathered by itself; use ddp"
            )
        seen.update(map(id, named.values()))


def _check_hooks(model: Any) -> None:
    """Refuse a method that keeps hold of its parameters, since FSDP2 puts others in their places.

    Raises:
        Unsupported: if a parameter has hooks, or the method changes its own after each step.
    """
    hooked = [n for n, p in model.named_parameters() if p._backward_hooks or p._post_accumulate_grad_hooks]
    if hooked or getattr(model, "peftbench_zeros", []):
        raise Unsupported(
            f"fsdp2: the method trains a part of a tensor ({abridged(hooked, 2)}), and a device has shards; use ddp"
        )
