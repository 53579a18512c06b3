"""Which modules LoRA adapts: the names that a suite gives, and the linear layers that cannot or need not be adapted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from peftbench.errors import Unsupported, UserError, unknown
from peftbench.models import head, layer_code, quantization, text_part

_ATTENTION = re.compile(r"(^|_)(attn|attention)$")
"""Names of the modules that contain the projections of attention, in all known families."""
_ROUTER = "Router"
"""Ending of the class names of linear layers that route to experts and return more than a product (llama4, phimoe)."""
_LIBRARIES = ("torch", "bitsandbytes")
"""Packages whose linear layers, quantized ones too, compute a product with their weight."""
_ROUTES = "routes to experts, and returns more than its product"
_OTHER = "has a forward pass of its own, which is no product with its weight (deepseek_v4's is grouped)"
_READ = (
    "belongs to a layer that reads its weight without calling it, as the fused kernels of Mamba do, so that an update "
    "has no effect"
)


def targets(model: nn.Module, wanted: str | list[str]) -> dict[str, Any]:
    """Return peft's ``target_modules`` and ``exclude_modules`` for the target modules that a suite gives.

    Excluded are routers to experts, linear layers with a forward pass of their own, projections whose weights are read
    without a call (in Mamba layers), and parts that text does not pass through.

    Args:
        model: the base model.
        wanted: ``all-linear``, ``attention``, or module name endings.

    Raises:
        UserError: if a name matches no linear layer; peft would ignore it silently if others match.
        Unsupported: if a name matches a module that cannot be adapted, or the base has no attention projections.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    refused = _refused(model)
    aside = text_part.left_out_leaves(model)
    trained = {name.rpartition(".")[0] for name, _ in head.parameters(model)} & {*linear}
    possible = [name for name in linear if name not in {*refused, *aside, *trained}]
    excluded = [*refused, *aside, *sorted(trained)] or None
    if wanted == "all-linear":
        return {"target_modules": wanted, "exclude_modules": excluded}
    if wanted == "attention":
        found = [name for name in possible if any(_ATTENTION.search(part) for part in name.split(".")[:-1])]
        if not found:
            raise Unsupported(f"lora: target_modules: no attention projections; linear layers: {_endings(linear)}")
        return {"target_modules": found, "exclude_modules": None}
    for name in wanted:
        if not _matches(name, possible) and _matches(name, trained):
            raise Unsupported(f"lora: target_modules: {name} is the head, which trains as a whole with every method")
        if not _matches(name, possible):
            raise _no_target(model, name, refused, aside, linear)
        for module in _matches(name, refused):
            raise Unsupported(f"lora: target_modules: {name} {refused[module]}")
    return {"target_modules": list(wanted), "exclude_modules": excluded}


def named(model: Any, found: Mapping[str, Any]) -> list[str]:
    """Return the full names of the modules that peft adapts with what ``targets`` has returned."""
    wanted, excluded = found["target_modules"], found["exclude_modules"] or ()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    output = model.get_output_embeddings()
    names = [name for name in linear if wanted != "all-linear" or model.get_submodule(name) is not output]
    return [name for name in names if not _among(name, excluded) and (wanted == "all-linear" or _among(name, wanted))]


def _among(name: str, endings: Iterable[str]) -> bool:
    return any(f".{name}".endswith(f".{ending}") for ending in endings)


def _no_target(
    model: nn.Module, name: str, refused: Mapping[str, str], aside: Iterable[str], linear: Iterable[str]
) -> Exception:
    """Return the error for a target module that LoRA cannot adapt or that does not exist."""
    for module in set(_matches(name, refused)) - set(aside):
        return Unsupported(f"lora: target_modules: {name} {refused[module]}")
    if _matches(name, aside):
        return Unsupported(f"lora: target_modules: {name} is in a part of the base that text does not pass through")
    tables = [n for n, m in model.named_modules() if isinstance(m, nn.Embedding)]
    if _matches(name, tables):
        return Unsupported(
            f"lora: target_modules: {name} is an embedding, and lora adapts linear layers; "
            "the method peft with peft_type: LORA adapts embeddings too"
        )
    return UserError("lora: target_modules: " + unknown("module", name, ending_set(linear)))


def _matches(name: str, modules: Iterable[str]) -> list[str]:
    return [module for module in modules if f".{module}".endswith(f".{name}")]


def _refused(model: nn.Module) -> dict[str, str]:
    """Return the linear layers that cannot be adapted, with the reason."""
    found = {}
    for path, module in model.named_modules():
        read = layer_code.read_weights(module)
        for name, child in module.named_children():
            reason = _why_not(child, name in read) if isinstance(child, nn.Linear) else None
            if reason is not None:
                found[f"{path}.{name}".lstrip(".")] = reason
    return found


def _why_not(layer: nn.Linear, read: bool) -> str | None:
    """Return why a linear layer cannot be adapted; None if it can.

    Args:
        layer: the layer.
        read: whether the code around it reads its weight without calling it.
    """
    kind = type(layer)
    if kind.__name__.endswith(_ROUTER):
        return _ROUTES
    library = kind.__module__.partition(".")[0]
    if kind.forward is not nn.Linear.forward and library not in _LIBRARIES and kind.__name__ not in quantization.LINEAR:
        return _OTHER
    return _READ if read else None


def ending_set(names: Iterable[str]) -> set[str]:
    """Return the last parts of module names."""
    return {name.rpartition(".")[2] for name in names}


def _endings(names: Iterable[str]) -> str:
    return ", ".join(sorted(ending_set(names)))
