"""Optimizers and learning-rate schedules by name.

Whatever the name, a step multiplies the tensors that decay by 1 - learning rate x weight decay, apart from the gradient
(plain SGD's L2 term comes to the same). Decay follows the schedule with the rate. Gradients are clipped by
their norm over all of a method's tensors before any optimizer sees them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from peftbench.records import Training


def _adamw(groups: Any, lr: float) -> torch.optim.Optimizer:
    # fused exists for every float type on the CPU and on CUDA
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def _bitsandbytes(name: str) -> Callable[[Any, float], Any]:
    """Return the maker of an AdamW of bitsandbytes.

    8-bit state is quantized in blocks, and only for tensors of 4,096 values or more: smaller ones keep 32 bits. Paged
    state is for tensors of 100,000 values or more, in memory that the driver moves between device and host; on the CPU
    nothing is paged. Dettmers et al. 2021, arXiv:2110.02861, section 2; 2023, arXiv:2305.14314, section 3.
    """

    def make(groups: Any, lr: float) -> Any:
        import bitsandbytes

        return getattr(bitsandbytes.optim, name)(groups, lr=lr)

    return make


def _sgd(groups: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=lr)


def _adafactor(groups: Any, lr: float) -> torch.optim.Optimizer:
    """Return Adafactor at the suite's rate: Shazeer & Stern 2018, arXiv:1804.04235.

    Departs from it: rates are the schedule's, neither relative to the step nor to the tensor's size. Its own clipping
    of each update to a root mean square of 1 stays, after the clipping of gradients that all methods have.
    """
    from transformers import Adafactor

    return Adafactor(groups, lr=lr, scale_parameter=False, relative_step=False)


OPTIMIZERS: Mapping[str, Callable[[Any, float], Any]] = MappingProxyType(
    {
        "adamw": _adamw,
        "adamw_8bit": _bitsandbytes("AdamW8bit"),
        "paged_adamw": _bitsandbytes("PagedAdamW32bit"),
        "paged_adamw_8bit": _bitsandbytes("PagedAdamW8bit"),
        "sgd": _sgd,
        "adafactor": _adafactor,
    }
)


def make(parameters: Sequence[nn.Parameter], training: Training) -> Any:
    """Return the optimizer. Weight decay applies to tensors of two dimensions or more, for every method alike.

    So projections, embeddings, virtual tokens and LoRA's A and B decay; biases, norms, DoRA's magnitudes and
    LLaMA-Adapter's gates do not.
    """
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": training.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[training.optimizer]([g for g in groups if g["params"]], training.learning_rate)


def learning_rate(training: Training, step: int, steps: int) -> float:
    """Return the rate of a step (from 0): a linear rise over the warm-up, then the schedule down to zero."""
    warmup = round(training.warmup_ratio * steps)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if training.schedule == "linear":
        return training.learning_rate * (1 - done)
    if training.schedule == "cosine":
        return training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return training.learning_rate
