"""LoRA on parts of a fused projection, such as q and v of gpt2's ``c_attn``, which computes q, k and v at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from peftbench.errors import Unsupported, UserError

FUSED: Mapping[str, Mapping[str, tuple[str, ...]]] = {"gpt2": {"c_attn": ("q", "k", "v")}}
"""``model_type`` -> projection -> names of its parts, for projections whose output is a concatenation of equal parts.
Projections that interleave q, k and v head by head (gpt_neox, falcon, bloom) are not included."""
_ADAPTER = "default"


def split(model: Any, wanted: str | list[str]) -> tuple[str | list[str], dict[str, list[str]]]:
    """Split target modules into modules and parts of them.

    Args:
        model: the base model.
        wanted: target modules, among them parts such as ``c_attn.q``.

    Returns:
        The modules, with ``c_attn`` in place of its parts, and for each such module the names of the parts wanted.

    Raises:
        UserError: if both a module and a part of it are named.
    """
    if isinstance(wanted, str):
        return wanted, {}
    fused = FUSED.get(getattr(model.config, "model_type", ""), {})
    names: list[str] = []
    parts: dict[str, list[str]] = {}
    for name in dict.fromkeys(wanted):
        module, _, part = name.rpartition(".")
        if part in fused.get(module, ()):
            parts.setdefault(module, []).append(part)
        else:
            names.append(name)
    if twice := set(names) & set(parts):
        raise UserError(f"lora: target_modules: given {', '.join(wanted)}; allowed: {twice.pop()} whole or its parts")
    return [*names, *parts], parts


def config(parts: Mapping[str, Sequence[str]], rank: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of ``LoraConfig`` for n parts with updates of rank r each: rank n r at the same scale.

    Raises:
        Unsupported: for options that would change the other parts of the projection, or the ranks.
    """
    start = options.get("initialization", "kaiming")
    words = [word for word in ("dora", "lora_fa", "riemannian", "rank_pattern", "alpha_pattern") if options.get(word)]
    if words or start != "kaiming":
        given = ", ".join(words) or f"initialization {start}"
        raise Unsupported(f"lora: parts of a fused projection ({', '.join(parts)}) take plain LoRA only, no {given}")
    counts = {module: len(found) for module, found in parts.items()}
    root = math.sqrt if options.get("rslora") else float
    return {
        "rank_pattern": {module: n * rank for module, n in counts.items()},
        "alpha_pattern": {module: root(n) * options["alpha"] for module, n in counts.items()},
    }


def restrict(tuned: Any, parts: Mapping[str, Sequence[str]]) -> None:
    """Restrict the update of a fused projection to the named parts, with a separate update for each.

    B of shape (out, n r) is zero except for one block per part: the rows of its outputs and r columns of its own. The
    update of part i is then s B_i A_i, with A_i the i-th r rows of A, as if it were a separate projection.
    """
    order = FUSED.get(getattr(tuned.config, "model_type", ""), {})
    for name, module in tuned.get_base_model().named_modules():
        found = [key for key in parts if f".{name}".endswith(f".{key}")]
        if not found or not isinstance(module, LoraLayer):
            continue
        weight, names = module.lora_B[_ADAPTER].weight, parts[found[0]]
        zero = torch.ones_like(weight, dtype=torch.bool)
        height, width = weight.shape[0] // len(order[found[0]]), weight.shape[1] // len(names)
        for i, part in enumerate(names):
            first = order[found[0]].index(part) * height
            zero[first : first + height, i * width : (i + 1) * width] = False
        weight.register_hook(lambda gradient, zero=zero: gradient.masked_fill(zero, 0.0))
        tuned.peftbench_zeros = [*getattr(tuned, "peftbench_zeros", ()), (weight, zero)]
        weight.peftbench_trained = len(names) * height * width


def keep_zeros(tuned: Any, _: int) -> None:
    """Reset the zeros of B after an optimizer step: 8-bit optimizers round them together with their neighbours."""
    for weight, zero in getattr(tuned, "peftbench_zeros", ()):
        weight.data.masked_fill_(zero, 0.0)
