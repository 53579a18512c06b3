"""The attention of a model's decoder layers: its kind by the shapes of its projections."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from peftbench.models.anatomy import blocks
from peftbench.models.anatomy.blocks import Block
from peftbench.models.anatomy.norms import same
from peftbench.models.anatomy.record import Attention

_QUERY = re.compile(r"^(q|query|wq|q_lin|q_proj|q_linear)(_proj|_lin)?$")
_KEY = re.compile(r"^(k|key|wk|k_lin|k_proj|k_linear)(_proj|_lin)?$")
_FUSED = re.compile(r"^(c_attn|query_key_value|qkv(_proj)?|wqkv|att_proj|in_proj|qkv_linear)$", re.IGNORECASE)
_LATENT = ("kv_lora_rank",)
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "num_q_heads", "num_query_heads")


def find(text: Any, layers: Sequence[Block]) -> Attention | None:
    """Return the attention of decoder layers; None if none of them has any.

    Args:
        text: the text part of a transformers config.
        layers: the decoder layers in parts.
    """
    each = [layer.attention for layer in layers if layer.attention is not None]
    if not each:
        return None
    sizes = [_sizes(text, module) for module in each]
    latent = _whole(getattr(text, _LATENT[0], None)) if any(_latent(module) for module in each) else None
    heads, shared, width = (same(size[place] for size in sizes) for place in range(3))
    window, windowed = _sliding(text, each)
    if latent is not None:
        return Attention("MLA", heads, None, _latent_width(text), latent, len(each), window, windowed)
    return Attention(same(map(_kind, sizes)), heads, shared, width, None, len(each), window, windowed)


def _kind(size: tuple[int | None, int | None, int | None]) -> str | None:
    heads, shared, _ = size
    if heads is None or shared is None:
        return None
    return "MHA" if heads == shared else "MQA" if shared == 1 else "GQA"


def _sizes(text: Any, module: nn.Module) -> tuple[int | None, int | None, int | None]:
    """Return heads, heads of keys and values and the width of a head of an attention module; None for the unknown."""
    out = _projections(module)
    heads = next((n for name in _HEADS if (n := _whole(_attribute(module, name)))), None)
    heads = heads or _whole(getattr(text, "num_attention_heads", None))
    query, key, fused = (_first(out, pattern) for pattern in (_QUERY, _KEY, _FUSED))
    stated = next((n for name in ("head_dim", "attention_head_size") if (n := _whole(_attribute(module, name)))), None)
    if heads is None:
        return None, None, stated
    if query is not None and key is not None:
        width: int | None = stated if stated and query % stated == 0 else query // heads
        # a query projection may also make a gate of the output
        if width and query not in (heads * width, 2 * heads * width):
            width = query // heads
        return heads, (key // width if width and key % width == 0 else None), width
    if fused is not None:
        width = stated or _whole(getattr(text, "head_dim", None)) or _divided(text, heads)
        rest = fused - heads * width if width else 0
        return heads, (rest // (2 * width) if width and rest > 0 and rest % (2 * width) == 0 else None), width
    return heads, None, stated


def _projections(module: nn.Module) -> dict[str, int]:
    """Return the output widths of the linear layers in an attention module, by the last part of their names."""
    found: dict[str, int] = {}
    for name, child in module.named_modules():
        weight = getattr(child, "weight", None)
        if weight is not None and getattr(weight, "ndim", 0) == 2 and not isinstance(child, nn.Embedding):
            found.setdefault(name.rpartition(".")[2], blocks._turned(child, weight)[0])
    return found


def _first(out: dict[str, int], pattern: re.Pattern[str]) -> int | None:
    return next((width for name, width in out.items() if pattern.search(name)), None)


def _attribute(module: nn.Module, name: str) -> Any:
    """Return an attribute of an attention module or of one inside it."""
    return next((found for m in module.modules() if (found := getattr(m, name, None)) is not None), None)


def _divided(text: Any, heads: int) -> int | None:
    width = _whole(getattr(text, "hidden_size", None))
    return width // heads if width and width % heads == 0 else None


def _latent(module: nn.Module) -> bool:
    """Return whether keys and values are made of a latent vector."""
    return any(re.search(r"kv_(a|b)_proj|kv_down|kv_compress|wkv_[ab]", name) for name, _ in module.named_modules())


def _latent_width(text: Any) -> int | None:
    """Return the width of a query's head of MLA: the rotated part and the other one."""
    each = [_whole(getattr(text, name, None)) for name in ("qk_nope_head_dim", "qk_rope_head_dim")]
    return sum(n for n in each if n) if all(each) else None


def _sliding(text: Any, each: Sequence[nn.Module]) -> tuple[int | None, int | None]:
    """Return the tokens of a sliding window and the number of layers that have one; None and 0 for none."""
    kinds = getattr(text, "layer_types", None) or getattr(text, "attention_layers", None)
    window = next((n for name in ("sliding_window", "window_size") if (n := _whole(getattr(text, name, None)))), None)
    if isinstance(kinds, list | tuple):
        count = sum(str(kind) in ("sliding_attention", "local", "hybrid_sliding") for kind in kinds)
        return (window if count else None), count
    own = [_whole(getattr(module, "sliding_window", None)) for module in each]
    if any(own):
        return same(n for n in own if n), sum(n is not None for n in own)
    if window is None or getattr(text, "use_sliding_window", None) is False:
        return None, 0
    return window, len(each)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
