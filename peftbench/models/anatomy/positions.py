"""How a model knows the order of tokens: by its modules, and by its config for what modules do not show."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import nn

from peftbench.models.anatomy.blocks import Block
from peftbench.models.anatomy.record import Positions, Rotary

_TABLE = re.compile(r"(^|\.)(wpe|embed_positions|position_embeddings?|positions?_embed\w*|pos_emb\w*)$")
_RELATIVE = re.compile(r"relative_attention_bias|rel_pos|relative_position|r_w_bias|^pos_key_net")
_ALIBI = frozenset({"bloom"})
"""Families that always have ALiBi."""
_ROTARY_BY_CODE: Mapping[str, float] = MappingProxyType({"gptj": 10000.0, "codegen": 10000.0})
"""Families with rotary positions that have neither a module nor a field for it, and the theta of their code."""
_NONE = frozenset({"jamba", "nemotron_h"})
"""Families whose attention has no positions: recurrences between the layers with attention give them."""


def find(text: Any, model: nn.Module, layers: Sequence[Block]) -> Positions:
    """Return the position encoding of a model.

    Args:
        text: the text part of its transformers config.
        model: the model on ``meta``.
        layers: its decoder layers in parts.
    """
    family = str(getattr(text, "model_type", ""))
    if family in _ALIBI or _states_alibi(text):
        return Positions("ALiBi")
    if getattr(text, "position_embedding_type", None) in ("nope", "none") or family in _NONE:
        return Positions("none")
    if family in _ROTARY_BY_CODE:
        return Positions("rotary", (_of_code(text, _ROTARY_BY_CODE[family]),))
    if any("rotary" in type(m).__name__.lower() for m in _of_text(model)):
        return Positions("rotary", _rotary(text), _without(text))
    for name, module in model.named_modules():
        if re.search(r"sinusoid", type(module).__name__, re.IGNORECASE):
            return Positions("sinusoidal")
        if isinstance(module, nn.Embedding) and _TABLE.search(name):
            return Positions("learned")
    if any(_RELATIVE.search(name.rpartition(".")[2]) for name, _ in model.named_parameters()):
        return Positions("relative")
    if layers and all(layer.attention is None for layer in layers):
        return Positions("none")
    return Positions(None)


def _of_text(model: nn.Module) -> list[nn.Module]:
    """Return the modules without those of towers, which may have rotary positions of their own."""
    return [m for name, m in model.named_modules() if not re.search(r"vision|visual|audio|image|speech", name)]


def _states_alibi(text: Any) -> bool:
    inner = getattr(text, "attn_config", None)
    return any(getattr(part, "alibi", None) is True for part in (text, inner)) or (
        isinstance(inner, Mapping) and inner.get("alibi") is True
    )


def _rotary(text: Any) -> tuple[Rotary, ...]:
    """Return the rotary encodings of a config: one, or one for each type of layer."""
    given = getattr(text, "rope_parameters", None)
    if not isinstance(given, Mapping):
        given = {"rope_theta": getattr(text, "rope_theta", None)}
    nested = {str(name): part for name, part in given.items() if isinstance(part, Mapping)}
    return tuple(_one(text, name, part) for name, part in (nested or {"all": given}).items())


def _one(text: Any, layers: str, part: Mapping[str, Any]) -> Rotary:
    kind = part.get("rope_type", part.get("type"))
    scaling = str(kind) if kind not in (None, "default") else None
    return Rotary(layers, _number(part.get("rope_theta")), scaling, _number(part.get("factor")), _share(text, part))


def _share(text: Any, part: Mapping[str, Any]) -> float | None:
    """Return the share of a head's dimensions that are rotated; None for latent attention, which says it in widths."""
    plain, rotated = (getattr(text, name, None) for name in ("qk_nope_head_dim", "qk_rope_head_dim"))
    if isinstance(plain, int) and isinstance(rotated, int):
        return rotated / (plain + rotated)
    for found in (part.get("partial_rotary_factor"), getattr(text, "partial_rotary_factor", None)):
        if isinstance(found, int | float):
            return float(found)
    return 1.0


def _of_code(text: Any, theta: float) -> Rotary:
    rotated, heads = getattr(text, "rotary_dim", None), getattr(text, "num_attention_heads", None)
    width = getattr(text, "hidden_size", None)
    share = None
    if isinstance(rotated, int) and isinstance(heads, int) and isinstance(width, int) and heads and width:
        share = rotated / (width // heads)
    return Rotary("all", theta, None, None, share)


def _without(text: Any) -> int | None:
    """Return how many layers a config says have no rotary encoding."""
    given = getattr(text, "no_rope_layers", None)
    # 1 stands for a layer that has it, whatever the name says
    return sum(not value for value in given) if isinstance(given, list | tuple) and given else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
