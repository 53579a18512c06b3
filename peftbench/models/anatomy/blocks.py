"""Split a decoder layer into its attention, its norms, its feed-forward block and the rest, by classes and names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

_ATTENTION = re.compile(r"attention|attn", re.IGNORECASE)
_RECURRENT = re.compile(r"linear.?att|delta|mamba|ssm|rwkv|retention|lightning|conv|kda", re.IGNORECASE)
_FEED_FORWARD = re.compile(
    r"mlp|feed_?forward|ffn|moe|expert|^ff|^(up|down|gate)_proj$|^fc\d|^(intermediate|output)$", re.IGNORECASE
)
_SUFFIX = re.compile(r"(Decoder)?(Layer|Block)$")
_NORM = re.compile(r"norm|^ln(_|\d|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Block:
    """A decoder layer in parts."""

    layer: nn.Module
    attention: nn.Module | None
    """The module of self-attention; None if the layer has none."""
    feed_forward: tuple[nn.Module, ...]
    """The modules of the feed-forward block, which in some families are several children of the layer."""
    norms: tuple[nn.Module, ...]
    """Norms of the layer's own width, outside of attention."""

    def beside_attention(self) -> list[nn.Module]:
        """Return all modules of the feed-forward block."""
        return list({id(m): m for part in self.feed_forward for m in part.modules()}.values())


def split(layer: nn.Module) -> Block:
    """Return a decoder layer in parts."""
    children, family = _spread(layer), _SUFFIX.sub("", type(layer).__name__)
    mixing = next((m for name, m in children if is_attention(name, m, family)), None)
    apart = {id(m) for m in mixing.modules()} if mixing is not None else set()
    blocks = tuple(m for name, m in children if id(m) not in apart and is_feed_forward(name, m))
    inside = apart | {id(m) for block in blocks for m in block.modules()}
    beside = tuple(m for name, m in children if id(m) not in inside and is_norm(name, m))
    return Block(layer, mixing, blocks, beside)


def _spread(layer: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return a layer's children with their names; of a child that only holds a list, the list's.

    In some families a layer is a list of sub-layers, or a wrapper around the norm and the attention.
    """
    found: list[tuple[str, nn.Module]] = []
    for name, child in layer.named_children():
        own = list(child.named_children())
        wraps = isinstance(child, nn.ModuleList) and not _FEED_FORWARD.search(name)
        pair = any(is_attention(n, m) for n, m in own) and any(is_norm(n, m) for n, m in own)
        found += _spread(child) if wraps or pair else [(name, child)]
    return found


def is_attention(name: str, module: nn.Module, family: str = "") -> bool:
    """Return whether a module is the self-attention of a layer, not a recurrence or attention to an encoder.

    Args:
        name: of the module.
        module: a child of a layer.
        family: how the names of the family's classes begin, which may contain "Linear" or "Mamba".
    """
    kind = type(module).__name__.removeprefix(family)
    if is_norm(name, module) or not any(True for _ in module.parameters()):
        return False
    return bool(
        (_ATTENTION.search(kind) or _ATTENTION.search(name))
        and not _RECURRENT.search(kind)
        and not _RECURRENT.search(name)
        and "cross" not in name.lower()
        and "encoder_attn" not in name
        and "mlp" not in name.lower()
    )


def is_feed_forward(name: str, module: nn.Module) -> bool:
    """Return whether a module belongs to the feed-forward block of a layer."""
    if is_norm(name, module) or _RECURRENT.search(name) or is_attention(name, module):
        return False
    if not any(True for _ in module.parameters()):  # dropout between the parts
        return False
    kind = type(module).__name__
    return bool(_FEED_FORWARD.search(name) or _FEED_FORWARD.search(kind))


def is_norm(name: str, module: nn.Module) -> bool:
    """Return whether a module is a norm by its class or name."""
    if any(True for _ in module.children()):
        return False
    return isinstance(module, nn.LayerNorm | nn.RMSNorm) or bool(
        _NORM.search(type(module).__name__) or (_NORM.search(name) and not isinstance(module, nn.Linear))
    )


def matrices(module: nn.Module) -> list[tuple[int, ...]]:
    """Return the shapes of the weight matrices right below a module: (out, in), with the experts before for stacks."""
    found = [tuple(p.shape) for p in module.parameters(recurse=False) if p.ndim == 3]
    for child in module.children():
        own = getattr(child, "weight", None)
        if own is not None and own.ndim == 2 and not any(True for _ in child.children()):
            found.append(_turned(child, own))
    return found


def _turned(module: nn.Module, weight: Any) -> tuple[int, ...]:
    """Return the shape of a weight as (out, in); GPT-2's layers store it as (in, out)."""
    shape = tuple(weight.shape)
    return shape[::-1] if type(module).__name__ == "Conv1D" else shape
