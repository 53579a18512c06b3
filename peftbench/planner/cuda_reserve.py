"""What a CUDA device holds beside a step's tensors, part by part with its source: not measured here. No torch.

The tensors themselves are traced. Already among them are what 4-bit layers dequantize (bitsandbytes' operators return
it), gradients and optimizer state (AdamW is the fused one on both devices), and what attention saves: the fused kernel
of the CPU saves query, key, value, output and one 32-bit number for each head and token, as CUDA's flash and
memory-efficient kernels do. Where no fused kernel exists for a step on the CPU, its whole attention matrix is in the
prediction, which on CUDA it may not be; ``Prediction.attention`` tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from peftbench.models.precision import effective
from peftbench.records import Trial

ROUNDING = 512
"""Every allocation is a multiple of so many bytes: kMinBlockSize in c10/core/AllocatorConfig.h of PyTorch."""
_MIB = 2**20


@dataclass(frozen=True)
class Part:
    """Something that takes memory of the device and is no tensor."""

    name: str
    size: int
    """In bytes."""
    doc: str
    source: str


PARTS: Sequence[Part] = (
    Part(
        "context",
        600_000_000,
        "the CUDA context of a process with its kernels; 0.3 to 0.6 GB, of which the larger is kept",
        "users' reports: 781 MB with older kernels in github.com/pytorch/pytorch/issues/34323",
    ),
    Part(
        "cuBLAS workspaces",
        2 * 32 * _MIB,
        "one for each handle, forward and backward threads have one each; 32 MiB on Hopper, 8.125 MiB before",
        "PyTorch, aten/src/ATen/cuda/CublasHandlePool.cpp; CUBLAS_WORKSPACE_CONFIG changes it",
    ),
    Part(
        "cuBLASLt workspace",
        _MIB,
        "1,024 KiB while a product runs",
        "PyTorch, aten/src/ATen/cuda/CUDABlas.cpp; CUBLASLT_WORKSPACE_SIZE changes it",
    ),
    Part(
        "open blocks",
        (2 + 20) * _MIB,
        "of what the allocator takes for small and for larger tensors, the last block of each kind: 2 and 20 MiB",
        "PyTorch, c10/cuda/CUDACachingAllocator.cpp: kSmallBuffer, kLargeBuffer",
    ),
)
_WITH_INT8 = Part(
    "context with `int8`",
    1_300_000_000,
    "in place of the first, with bitsandbytes' 8-bit kernels: LLaMA-6B as it is taught, 6 + 6 + 12 + 1.3 GB",
    "told everywhere, of older libraries",
)
EVERY = (*PARTS, _WITH_INT8)


def parts(trial: Trial) -> Mapping[str, int]:
    """Return what a trial's process holds on its device beside tensors, in bytes by name; nothing on the CPU."""
    if trial.device != "cuda":
        return MappingProxyType({})
    found = {part.name: part.size for part in PARTS}
    if effective(trial.precision, trial.options).quantization == "int8":
        found["context"] = _WITH_INT8.size
    return MappingProxyType(found)


def reserve(trial: Trial) -> int:
    """Return the bytes that a budget for a trial keeps for what is no tensor."""
    return sum(parts(trial).values())


def rounding(device: str) -> int:
    """Return of what number of bytes each allocation on a device is a multiple."""
    return ROUNDING if device == "cuda" else 1
