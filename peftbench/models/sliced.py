"""Quantize on the CPU a slice of a weight at a time, since bitsandbytes' operators there make several copies of it.

They are chains of torch's operators, whose results take some 20 bytes for each weight while they run.
Scales are those of blocks or rows, so slices of whole blocks or rows give the same codes and scales, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

WEIGHTS = 2**17
"""Weights of a slice, a multiple of every size of blocks: their copies take about 3 MB."""


@cache
def register() -> None:
    """Let bitsandbytes quantize on the CPU in slices in this process, unless it has a kernel of its own for CPUs."""
    import bitsandbytes  # noqa: F401 (defines the operators)

    for name in ("quantize_4bit", "int8_vectorwise_quant"):
        operator = f"bitsandbytes::{name}"
        if not torch._C._dispatch_has_kernel_for_dispatch_key(operator, "CPU"):
            torch.library.impl(operator, "CPU", _kernel(name, torch.library.get_kernel(operator, "CPU")))


def _kernel(name: str, whole: Any) -> Callable[..., Any]:
    """Return a kernel that calls the function of that name here, and this the library's own kernel."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
    return lambda *given: globals()[name](lambda *part: whole.call_boxed(keys, *part), *given)


def quantize_4bit(
    whole: Callable[..., Any], weight: torch.Tensor, block: int, kind: str, storage: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the codes and scales of a weight in 4 bits.

    Args:
        whole: bitsandbytes' operator, called with each slice.
        weight: floating-point numbers.
        block: weights that have a scale.
        kind: ``nf4`` or ``fp4``.
        storage: dtype of the codes.
    """
    if weight.numel() <= WEIGHTS or storage is not torch.uint8:
        return whole(weight, block, kind, storage)  # type: ignore[no-any-return]
    flat = weight.reshape(-1)
    codes = torch.empty(math.ceil(flat.numel() / 2), 1, dtype=storage)
    scales = torch.empty(math.ceil(flat.numel() / block))
    places = zip(flat.split(WEIGHTS), codes.split(WEIGHTS // 2), scales.split(WEIGHTS // block), strict=True)
    for part, own_codes, own_scales in places:
        found = whole(part, block, kind, storage)
        own_codes.copy_(found[0])
        own_scales.copy_(found[1])
    return codes, scales


def int8_vectorwise_quant(
    whole: Callable[..., Any], weight: torch.Tensor, threshold: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Return the codes of a matrix in 8 bits and the scale of each row; the third is of outliers, which it keeps apart.

    Args:
        whole: bitsandbytes' operator, called with each slice.
        weight: (rows, columns).
        threshold: values from it on are outliers; they are those of columns, so nothing is then sliced.
    """
    rows = max(1, WEIGHTS // weight.shape[-1])
    if threshold or weight.ndim != 2 or weight.shape[0] <= rows:
        return whole(weight, threshold)  # type: ignore[no-any-return]
    codes, scales = torch.empty(weight.shape, dtype=torch.int8), torch.empty(weight.shape[0])
    for part, own_codes, own_scales in zip(weight.split(rows), codes.split(rows), scales.split(rows), strict=True):
        found = whole(part, threshold)
        own_codes.copy_(found[0])
        own_scales.copy_(found[1])
    return codes, scales, None
