"""Optimizers and learning-rate schedules by name.

With every optimizer, weight decay is decoupled: a step multiplies the decaying tensors by 1 - learning rate x weight
decay (for plain SGD, the L2 term is equivalent). Decay follows the schedule with the learning rate. Gradients are
clipped by their norm over all of a method's tensors before the optimizer uses them. ``records.OPTIMIZERS`` has a record
of each, with its source and its state.
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
    # fused supports every float type on the CPU and on CUDA
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def _bitsandbytes(name: str) -> Callable[[Any, float], Any]:
    """Return a function that makes one of bitsandbytes' optimizers.

    8-bit state is quantized in blocks, and only for tensors of at least 4,096 values; smaller ones keep 32 bits. Paged
    state is used for tensors of at least 100,000 values, in memory that the driver moves between device and host. On
    the CPU nothing is paged.

    References:
        Dettmers et al. 2021, arXiv:2110.02861, section 2; Dettmers et al. 2023, arXiv:2305.14314, section 3.
    """

    def make(groups: Any, lr: float) -> Any:
        import bitsandbytes

        return getattr(bitsandbytes.optim, name)(groups, lr=lr)

    return make


def _sgd(groups: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=lr)


def _adafactor(groups: Any, lr: float) -> torch.optim.Optimizer:
    """Return Adafactor at the suite's learning rate.

    Departs from the paper: the learning rate is the schedule's and not relative to the step or to the scale of the
    tensor. Adafactor still clips each update to a root mean square of 1, after the gradient clipping of all methods.

    References:
        Shazeer & Stern 2018, arXiv:1804.04235.
    """
    from transformers import Adafactor

    return Adafactor(groups, lr=lr, scale_parameter=False, relative_step=False)


MAKERS: Mapping[str, Callable[[Any, float], Any]] = MappingProxyType(
    {
        "adamw": _adamw,
        "adamw_8bit": _bitsandbytes("AdamW8bit"),
        "paged_adamw": _bitsandbytes("PagedAdamW32bit"),
        "paged_adamw_8bit": _bitsandbytes("PagedAdamW8bit"),
        "sgd": _sgd,
        "adafactor": _adafactor,
        "lion": _bitsandbytes("Lion32bit"),
        "lion_8bit": _bitsandbytes("Lion8bit"),
        "ademamix": _bitsandbytes("AdEMAMix"),
    }
)
"""One function for each of ``records.OPTIMIZERS``: parameter groups and a learning rate to an optimizer."""


RATIO = "rate_ratio"
"""Key of a parameter group: its learning rate as a multiple of the schedule's."""


def make(parameters: Sequence[nn.Parameter], training: Training) -> Any:
    """Return the optimizer. For every method, weight decay applies to tensors of two or more dimensions.

    So projections, embeddings, virtual tokens and LoRA's A and B decay; biases, norms, DoRA's magnitudes and
    LLaMA-Adapter's gates do not.

    A parameter with an attribute ``peftbench_rate_ratio`` (``methods.lora_plus``) trains at that multiple of the rate:
    its group carries the ratio as ``rate_ratio``, by which ``set_rate`` multiplies the schedule's rate.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for parameter in sorted(parameters, key=lambda p: (p.ndim < 2, _ratio(p))):  # stable
        groups.setdefault((parameter.ndim >= 2, _ratio(parameter)), []).append(parameter)
    made = [
        {
            "params": members,
            "weight_decay": training.weight_decay if decays else 0.0,
            "lr": training.learning_rate * ratio,
            RATIO: ratio,
        }
        for (decays, ratio), members in groups.items()
    ]
    return MAKERS[training.optimizer](made, training.learning_rate)


def _ratio(parameter: nn.Parameter) -> float:
    return float(getattr(parameter, "peftbench_rate_ratio", 1.0))


def set_rate(optimizer: Any, rate: float) -> None:
    """Set the learning rate of a step in every group, times the group's ratio."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[RATIO]


def learning_rate(training: Training, step: int, steps: int) -> float:
    """Return the learning rate of a step (from 0): a linear warm-up, then the schedule down to zero."""
    warmup = round(training.warmup_ratio * steps)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    if training.schedule == "linear":
        return training.learning_rate * (1 - done)
    if training.schedule == "cosine":
        return training.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
    return training.learning_rate
