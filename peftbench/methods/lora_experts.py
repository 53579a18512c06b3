"""LoRA on fused experts: the tensors in which a mixture of experts stores the matrices of all experts of a layer.

peft adds s B A to each matrix of such a tensor before a pass reads it (its ``target_parameters``), so that autograd
keeps the sum of every layer for the backward pass: as large as the experts themselves, unless gradients are
checkpointed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from peftbench.errors import Unsupported
from peftbench.models.quantization import is_fused

OPTION, AUTO, EACH, DIVIDED, NONE = "experts", "auto", "each", "divided", "none"
_ACTIVE = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "moe_top_k",
    "moe_topk",
    "top_k_experts",
)
"""Keys of configs with the number of experts that a token passes through."""


def config(
    model: nn.Module, modules: Sequence[str], rank: int, options: Mapping[str, Any], own: Mapping[str, Any]
) -> dict[str, Any]:
    """Return peft's settings for LoRA on linear layers and on fused experts, or on the former alone.

    Args:
        model: the base model.
        modules: full names of the linear layers to adapt.
        rank: r of the linear layers.
        options: ``experts`` (``each``: every expert has the rank r; ``divided``: r divided by the number of experts
            that a token passes through, rounded up, at the same scale, or with rslora at alpha / sqrt(its rank);
            ``none``), ``alpha``, ``rslora``, ``dropout`` and ``initialization``. Gate and up projections that are one
            tensor have one A, and the rank together.
        own: ``rank_pattern`` and ``alpha_pattern``. Experts that the former names have its rank, with alpha as other
            layers have it, and not a part of r.

    Raises:
        Unsupported: if the base model has no fused experts, or peft does not adapt them so.
    """
    fused = _fused(model)
    if not fused:
        raise Unsupported(f"lora: {OPTION}: the base model has no fused experts; remove the key")
    claimed = _claimed(model)
    kept = [name for name in modules if name.rpartition(".")[2] not in claimed]
    settings: dict[str, Any] = {"target_modules": kept, "exclude_modules": None, **own}
    if options[OPTION] == NONE:
        return settings
    _check(model, fused, options)
    settings["target_parameters"] = fused
    if options[OPTION] == DIVIDED:
        smaller = math.ceil(rank / _active(model))
        alpha = options["alpha"] if options.get("rslora") else options["alpha"] * smaller / rank
        settings["rank_pattern"] = _beside(own.get("rank_pattern", {}), own, fused, smaller)
        settings["alpha_pattern"] = _beside(own.get("alpha_pattern", {}), own, fused, alpha)
    return settings


def names(tuned: nn.Module) -> list[str]:
    """Return the names by which peft looks patterns up: of adapted modules, and of adapted tensors of experts."""
    found = ((name, module) for name, module in tuned.named_modules() if isinstance(module, LoraLayer))
    return [
        f"{name.replace('.base_layer', '')}.{module.parameter_name}" if hasattr(module, "parameter_name") else name
        for name, module in found
    ]


def check_patterns(
    tuned: Any, settings: Mapping[str, Any], patterns: Mapping[str, Mapping[str, re.Pattern[str]]]
) -> None:
    """Check that no pattern names experts to which peft gives patterns of its own, with ``experts: auto``.

    Gate and up projections that are one tensor have twice the rank and twice alpha there. peft's own patterns replace a
    user's of the same text, and beside others the rank would be the user's, and alpha peft's.

    Args:
        tuned: the base model wrapped by peft.
        settings: peft's settings as they were given to it, by ``rank_pattern`` and ``alpha_pattern``.
        patterns: of the user's, each pattern with its regular expression, by the same keys.

    Raises:
        Unsupported: if one names such experts.
    """
    of_peft: set[str] = set()
    for key in patterns:
        before, after = settings.get(key, {}), getattr(tuned.active_peft_config, key)
        of_peft |= {each.rpartition(".")[2] for each, value in after.items() if before.get(each) != value}
    doubled = [name for name in names(tuned.get_base_model()) if re.escape(name.rpartition(".")[2]) in of_peft]
    for key, found in patterns.items():
        for pattern, regex in found.items():
            named = next((name for name in doubled if regex.match(name)), None)
            if named:
                raise Unsupported(
                    f"lora: {key}: {pattern!r} names experts ({named}) to which peft gives twice the rank and alpha by "
                    f"itself, whatever a pattern says; with {OPTION}: {EACH} or {DIVIDED} the pattern holds"
                )


def _beside(given: Mapping[str, Any], own: Mapping[str, Any], fused: Sequence[str], value: Any) -> dict[str, Any]:
    """Return patterns with a value for the experts whose rank the user's patterns do not name."""
    ranks = own.get("rank_pattern", {})
    rest = [name for name in fused if not any(re.match(rf"(.*\.)?({pattern})$", name) for pattern in ranks)]
    if len(rest) == len(fused):
        rest = [".".join(name.split(".")[-2:]) for name in fused]
    more = dict.fromkeys(sorted({re.escape(name) for name in rest}), value)
    return {**given, **{pattern: each for pattern, each in more.items() if pattern not in given}}


def _fused(model: nn.Module) -> list[str]:
    """Return the names of the tensors with the matrices of several experts, quantized ones too."""
    return [
        f"{path}.{name}"
        for path, module in model.named_modules()
        for name in [*dict(module.named_parameters(recurse=False)), *getattr(module, "parametrizations", {})]
        if is_parametrized(module, name) or is_fused(module, getattr(module, name))
    ]


def _claimed(model: Any) -> set[str]:
    """Return the last parts of module names that peft takes for experts of this family, wherever they occur.

    Files of these families have a module for each expert, and peft reads the names in them as those of the fused
    tensors. A dense layer of such a name, as in the first layers of DeepSeek-V3, cannot be adapted beside them.
    """
    from peft.utils import transformers_weight_conversion as conversion

    kind = conversion._MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type)
    return {*conversion._MOE_TARGET_MODULE_MAPPING.get(kind, {})}


def _check(model: nn.Module, fused: Sequence[str], options: Mapping[str, Any]) -> None:
    words = [word for word in ("dropout", "dora") if options.get(word)]
    words += [start for start in [options.get("initialization", "kaiming")] if start not in ("kaiming", "gaussian")]
    if words:
        raise Unsupported(f"lora: {OPTION}: peft has no {' and no '.join(words)} on fused experts ({fused[0]})")
    path, _, name = fused[0].rpartition(".")
    if is_parametrized(model.get_submodule(path), name):
        raise Unsupported(
            f"lora: {OPTION}: peft 0.21 adds its update to quantized fused experts ({fused[0]}) anew in every pass; "
            f"use {NONE}, or an unquantized precision"
        )


def _active(model: Any) -> int:
    """Return the number of experts that a token passes through."""
    text = model.config.get_text_config()
    found = [value for value in (getattr(text, key, None) for key in _ACTIVE) if isinstance(value, int) and value > 0]
    if not found:
        raise Unsupported(f"lora: {OPTION}: {DIVIDED}: the config has none of {', '.join(_ACTIVE)}; use {EACH}")
    return found[0]
