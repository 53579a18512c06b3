"""Non-tensor memory on a CUDA device, part by part with its source. The sizes are not measured here. No torch.

Tensors are traced. The trace includes dequantized 4-bit weights (bitsandbytes' operators return them), gradients and
optimizer state (AdamW is fused on both devices), and what attention saves: the CPU's fused kernel saves query, key,
value, output and one 32-bit number per head and token, as CUDA's flash and memory-efficient kernels do. If the CPU has
no fused kernel for a step, the prediction contains the whole attention matrix, which CUDA may not need; see
``Prediction.attention``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from peftbench.models.precision import effective
from peftbench.records import Trial

ROUNDING = 512
"""Every allocation is a multiple of this many bytes: kMinBlockSize in c10/core/AllocatorConfig.h of PyTorch."""
_MIB = 2**20


@dataclass(frozen=True)
class Part:
    """One part of a device's non-tensor memory."""

    name: str
    size: int
    """In bytes."""
    doc: str
    source: str


PARTS: Sequence[Part] = (
    Part(
        "context",
        600_000_000,
        "the CUDA context of a process with its kernels; 0.3 to 0.6 GB; the upper value is used",
        "users' reports: 781 MB with older kernels in github.com/pytorch/pytorch/issues/34323",
    ),
    Part(
        "cuBLAS workspaces",
        2 * 32 * _MIB,
        "one per handle, and the forward and backward threads have a handle each; 32 MiB on Hopper, 8.125 MiB before",
        "PyTorch, aten/src/ATen/cuda/CublasHandlePool.cpp; CUBLAS_WORKSPACE_CONFIG changes it",
    ),
    Part(
        "cuBLASLt workspace",
        _MIB,
        "1,024 KiB while a matrix product runs",
        "PyTorch, aten/src/ATen/cuda/CUDABlas.cpp; CUBLASLT_WORKSPACE_SIZE changes it",
    ),
    Part(
        "open blocks",
        (2 + 20) * _MIB,
        "unused parts of the allocator's last blocks, one for small and one for larger tensors: 2 and 20 MiB",
        "PyTorch, c10/cuda/CUDACachingAllocator.cpp: kSmallBuffer, kLargeBuffer",
    ),
)
_WITH_INT8 = Part(
    "context with `int8`",
    1_300_000_000,
    "replaces the first, with bitsandbytes' 8-bit kernels: the textbook example of LLaMA-6B is 6 + 6 + 12 + 1.3 GB",
    "widely reported, for older libraries",
)
EVERY = (*PARTS, _WITH_INT8)


def parts(trial: Trial) -> Mapping[str, int]:
    """Return the non-tensor memory of a trial's process on its device, in bytes by part; empty on the CPU."""
    return parts_of(trial.device, trial.precision, trial.options)


def parts_of(device: str | None, precision: str, options: Mapping[str, Any]) -> Mapping[str, int]:
    """Return the non-tensor memory of a process that trained on a device, as ``parts``; for stored rows."""
    if device != "cuda":
        return MappingProxyType({})
    found = {part.name: part.size for part in PARTS}
    if effective(precision, options).quantization in ("int8", "stored"):  # which may be 8-bit
        found["context"] = _WITH_INT8.size
    return MappingProxyType(found)


def reserve(trial: Trial) -> int:
    """Return the bytes of a trial's budget that are reserved for non-tensor memory."""
    return sum(parts(trial).values())


def rounding(device: str) -> int:
    """Return the number of bytes that every allocation on a device is rounded up to a multiple of."""
    return ROUNDING if device == "cuda" else 1
