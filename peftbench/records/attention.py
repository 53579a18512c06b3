"""The implementations of attention that ``train: {attention: ...}`` names, a record each. No torch.

The names are transformers' own. ``models.attention`` sets them, and ``methods.support`` refuses what a record excludes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

AUTO = "auto"
"""What transformers takes for the base model: ``sdpa`` if its class has it, else ``eager``."""


@dataclass(frozen=True)
class Attention:
    """One implementation of attention."""

    name: str
    title: str
    """What it is, as one sentence without its end."""
    source: str
    devices: tuple[str, ...] = ("cpu", "cuda")
    """Devices that can train with it."""
    half: bool = False
    """Whether it computes in 16 bits only."""
    package: str = ""
    """What must be installed besides the dependencies, in words; empty for nothing."""


ATTENTIONS: Mapping[str, Attention] = MappingProxyType(
    {
        record.name: record
        for record in (
            Attention(
                "eager",
                "matrix products and a softmax, whose weights of every pair of tokens are kept for the backward pass",
                "Vaswani et al. 2017, arXiv:1706.03762",
            ),
            Attention(
                "sdpa",
                "torch's scaled_dot_product_attention, which selects a kernel",
                "Dao et al. 2022, arXiv:2205.14135",
            ),
            Attention(
                "flex_attention",
                "torch's flex_attention, a kernel compiled for the mask",
                "Dong et al. 2024, arXiv:2412.05496",
                devices=("cuda",),
            ),
            Attention(
                "flash_attention_2",
                "FlashAttention-2, without padding",
                "Dao 2023, arXiv:2307.08691",
                devices=("cuda",),
                half=True,
                package="flash-attn or kernels",
            ),
            Attention(
                "flash_attention_3",
                "FlashAttention-3, without padding, for Hopper GPUs",
                "Shah et al. 2024, arXiv:2407.08608",
                devices=("cuda",),
                half=True,
                package="flash-attn-3 or kernels",
            ),
        )
    }
)
"""Name -> record."""
