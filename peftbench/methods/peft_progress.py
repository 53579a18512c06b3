"""What peft's tuners change while they train besides weights and buffers, for training that continues elsewhere.

AdaLoRA has the importance of its singular values so far, and which of them it has switched off. MonteCLoRA has samples
that were drawn in advance, and how many of them are used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

_IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")
Tensors = dict[str, torch.Tensor]


def state(model: Any) -> tuple[Tensors, dict[str, Any]]:
    """Return the tensors and the plain data of a tuner's progress; both empty for a tuner without such state."""
    tensors: Tensors = {}
    plain: dict[str, Any] = {}
    allocator = _allocator(model)
    if allocator is not None:
        tensors |= {f"{kind}/{name}": t for kind in _IMPORTANCE for name, t in getattr(allocator, kind).items()}
        plain["rank_pattern"] = allocator.peft_config.rank_pattern
    for place, sampler in _samplers(model):
        plain[place] = sampler.index
        for index, sample in enumerate(sampler.buffer):
            tensors |= {f"{place}/{index}/{name}": tensor for name, tensor in sample.items()}
    return tensors, plain


def restore(model: Any, tensors: Mapping[str, torch.Tensor], plain: Mapping[str, Any]) -> None:
    """Give a tuner the progress that ``state`` returned."""
    allocator = _allocator(model)
    if allocator is not None:
        device = next(model.parameters()).device
        for kind in _IMPORTANCE:
            setattr(allocator, kind, {n: t.to(device) for n, t in _below(tensors, kind).items()})
        allocator.peft_config.rank_pattern = plain["rank_pattern"]
    for place, sampler in _samplers(model):
        sampler.index = plain[place]
        for index, sample in enumerate(sampler.buffer):
            saved = _below(tensors, f"{place}/{index}")
            sampler.buffer[index] = {name: saved[name].to(drawn.device) for name, drawn in sample.items()}


def _below(tensors: Mapping[str, torch.Tensor], place: str) -> Tensors:
    return {name.removeprefix(f"{place}/"): t for name, t in tensors.items() if name.startswith(f"{place}/")}


def _allocator(model: Any) -> Any:
    return getattr(getattr(model, "base_model", None), "rankallocator", None)


def _samplers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the place and the sampler of every module that draws samples in advance."""
    for name, module in model.named_modules():
        sampler = getattr(module, "sampler", None)
        if hasattr(sampler, "buffer") and hasattr(sampler, "index"):
            yield name, sampler
