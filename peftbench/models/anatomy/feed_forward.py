"""The feed-forward blocks of a model's decoder layers, and their experts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from peftbench.models.anatomy import blocks
from peftbench.models.anatomy.blocks import Block
from peftbench.models.anatomy.norms import same
from peftbench.models.anatomy.record import Experts, FeedForward

_ACTIVATION = ("hidden_activation", "hidden_act", "activation_function", "mlp_hidden_act", "activation", "afn")
"""Fields of a config with the activation of its feed-forward blocks; Gemma's first one is what its code reads."""
_ACTIVE = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk", "moe_k", "top_k_experts", "top_k")
_SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
_NUMBER = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def find(text: Any, layers: Sequence[Block]) -> FeedForward:
    """Return the feed-forward blocks of decoder layers.

    Args:
        text: the text part of a transformers config.
        layers: the decoder layers in parts.
    """
    dense = [width for layer in layers if not _experts(layer) for _, width in _units(layer)]
    gated = [gate for layer in layers for gate, _ in _units(layer)]
    return FeedForward(_activation(text, layers), same(gated), same(dense))


def _units(layer: Block) -> Iterator[tuple[bool | None, int | None]]:
    """Yield gate and inner width of every group of matrices that makes up a feed-forward block, or an expert."""
    own = [blocks._turned(m, m.weight) for m in layer.feed_forward if _is_matrix(m)]
    groups = [own, *(blocks.matrices(module) for module in layer.beside_attention())]
    yield from (_unit(group) for group in map(_large, groups) if len(group) > 1)


def _large(shapes: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Return the matrices of a block; small ones beside them select experts or weigh their sum."""
    each = [shape[-2:] for shape in shapes]
    largest = max(map(math.prod, each), default=0)
    return [shape for shape in each if 3 * math.prod(shape) >= largest]


def _is_matrix(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return weight is not None and weight.ndim == 2 and not any(True for _ in module.children())


def _unit(shapes: Sequence[tuple[int, ...]]) -> tuple[bool | None, int | None]:
    """Return whether a group of matrices is gated, and its inner width.

    A block of width F on a stream of width H has two matrices of H x F, one with a gate three; two of them may be
    stored as one of twice the size.
    """
    found = {2: False, 3: True}
    for outer in sorted(set.intersection(*map(set, shapes))):
        inner = [math.prod(shape) // outer for shape in shapes]
        width = min(inner)
        if sum(inner) % width == 0 and sum(inner) // width in found:
            return found[sum(inner) // width], width
    return None, None


def _activation(text: Any, layers: Sequence[Block]) -> str | None:
    """Return the name of the activation: the config's, if the modules of the blocks do not contradict it."""
    stated = next((v for name in _ACTIVATION if isinstance(v := getattr(text, name, None), str)), None)
    used = {type(m): m for layer in layers for m in layer.beside_attention() if _is_activation(m)}
    if not used:
        return stated
    if stated is not None and _class_of(stated) in used:
        return stated if len(used) == 1 else None
    return _name_of(next(iter(used.values()))) if len(used) == 1 else None


def _is_activation(module: nn.Module) -> bool:
    home = type(module).__module__
    return home in ("transformers.activations", "torch.nn.modules.activation") or type(module).__name__ == "BloomGelu"


def _class_of(name: str) -> type | None:
    from transformers.activations import ACT2FN

    try:
        return type(ACT2FN[name])
    except KeyError:
        return None


def _name_of(module: nn.Module) -> str:
    """Return transformers' name of an activation, else the name of its class."""
    from transformers.activations import ACT2CLS

    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_pytorch_tanh"
    if isinstance(module, nn.SiLU):
        return "silu"
    kind = type(module)
    named = (name for name, made in ACT2CLS.items() if (made[0] if isinstance(made, tuple) else made) is kind)
    return next(named, {"BloomGelu": "gelu_new"}.get(kind.__name__, kind.__name__))


def experts(text: Any, layers: Sequence[Block]) -> Experts | None:
    """Return the experts of decoder layers; None if neither the layers nor the config have any."""
    each = [count for layer in layers if (count := _experts(layer))]
    stated, inner = _field(text, _NUMBER), getattr(text, "ffn_config", None)
    active, shared = _field(text, _ACTIVE), _field(text, _SHARED, least=0)
    if not each and any(gate is not None for layer in layers for gate, _ in _units(layer)):
        return None  # of a family that also has models with experts
    if not each and (stated is None or stated < 2):
        stated, active = (_field(inner, names) if inner is not None else None for names in (_NUMBER, _ACTIVE))
    if not each and (stated is None or stated < 2):
        return None
    widths = [width for layer in layers for module in _holders(layer) for _, width in _of_experts(module)]
    return Experts(same(each) if each else stated, active, shared, same(widths), len(each) or None)


def _experts(layer: Block) -> int:
    """Return how many experts a layer has: by the stacks of their matrices, or the list of them; 0 for none."""
    return max((_count(module) for module in _holders(layer)), default=0)


def _holders(layer: Block) -> list[nn.Module]:
    """Return the modules that hold the experts of a layer: stacks of their matrices, or a list of them."""
    return [module for module in layer.beside_attention() if _count(module)]


def _count(module: nn.Module) -> int:
    if isinstance(module, nn.ModuleList):
        return len(module) if len(module) > 1 and len({type(m) for m in module}) == 1 else 0
    stacks = {p.shape[0] for p in module.parameters(recurse=False) if p.ndim == 3}
    return stacks.pop() if len(stacks) == 1 and "xpert" in type(module).__name__ else 0


def _of_experts(module: nn.Module) -> Iterator[tuple[bool | None, int | None]]:
    """Yield gate and inner width of experts."""
    for each in module if isinstance(module, nn.ModuleList) else (module,):
        group = _large(blocks.matrices(each))
        if len(group) > 1:
            yield _unit(group)


def _field(text: Any, names: Sequence[str], least: int = 1) -> int | None:
    of = text.get if isinstance(text, Mapping) else lambda name: getattr(text, name, None)
    values = (of(name) for name in names)
    return next((v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= least), None)
