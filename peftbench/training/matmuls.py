"""The operators that are matrix products, attention and quantized layers among them, and the FLOPs of each call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_ATEN = torch.ops.aten
_FUSED = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")


def _attended(q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(q.shape, *_shared(q, k, v))


def _attended_backward(gradient: Any, q: Any, k: Any, v: Any, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(gradient.shape, q.shape, *_shared(q, k, v))


def _shared(q: Any, *of: Any) -> list[tuple[int, ...]]:
    """Return the shapes of keys and values (b, h_kv, t, d_h) with as many heads as the query, as they are computed.

    Until torch 2.12, torch's table refuses keys and values with fewer heads than the query.
    """
    return [(x.shape[0], q.shape[1], *x.shape[2:]) for x in of]


_PRODUCTS: Mapping[Any, Callable[..., int]] = {
    **flop_registry,
    **{getattr(_ATEN, f"_scaled_dot_product_{name}"): _attended for name in _FUSED},
    **{getattr(_ATEN, f"_scaled_dot_product_{name}_backward"): _attended_backward for name in _FUSED},
    _ATEN._grouped_mm: lambda rows, experts, *_, **__: 2 * rows.numel() * experts.shape[-1],
}
"""Operators with matrix products: torch's own table and those that it lacks. Attention masks are ignored."""
_PLAIN: Mapping[Any, int] = {_ATEN.mm: 0, _ATEN.bmm: 0, _ATEN.addmm: 1, _ATEN.baddbmm: 1}
"""Products of plain matrices -> the place of the first one in the arguments."""
_THIN = 8
"""How many times as wide as the inner dimension the result of a thin product is at least."""
_QUANTIZED: Mapping[str, Callable[..., int]] = {
    "bitsandbytes::gemm_4bit": lambda x, codes, shape, *_, **__: 2 * x.numel() * shape[0],
    "bitsandbytes::int8_mixed_scaled_mm": lambda x, rows, codes, *_, **__: 2 * x.numel() * codes.shape[0],
    "bitsandbytes::int8_scaled_mm": lambda rows, codes, *_, **__: 2 * rows.numel() * codes.shape[0],
}
"""bitsandbytes' products of inputs of width d with stored weights of shape (out, d), by name to avoid the import."""


def operations(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any], out: Any) -> int:
    """Return the FLOPs of the matrix products in one call of an operator; 0 if it has none."""
    packet = _packet(func)
    if packet in _PRODUCTS:
        return _PRODUCTS[packet](*args, **kwargs, out_val=out)
    count = _QUANTIZED.get(getattr(packet, "_qualified_op_name", ""))
    return count(*args, **kwargs) if count else 0


def is_product(func: Any) -> bool:
    """Return whether an operator is a matrix product, of which ``operations`` counts the FLOPs."""
    packet = _packet(func)
    return packet in _PRODUCTS or getattr(packet, "_qualified_op_name", "") in _QUANTIZED


def is_thin(func: Any, args: Sequence[Any]) -> bool:
    """Return whether a product of plain matrices (m, k) and (k, n) has k <= n / 8, as LoRA's with B has."""
    place = _PLAIN.get(_packet(func))
    if place is None:
        return False
    one, other = args[place : place + 2]
    return bool(one.shape[-1] * _THIN <= other.shape[-1])


def _packet(func: Any) -> Any:
    """Return an operator without its overload; flex attention's has none."""
    return getattr(func, "_overloadpacket", func)
