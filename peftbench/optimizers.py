"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from peftbench.records import Training


def _adamw(groups: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=lr, fused=True)


def _bitsandbytes(name: str) -> Callable[[Any, float], Any]:
    def make(groups: Any, lr: float) -> Any:
        import bitsandbytes

        return getattr(bitsandbytes.optim, name)(groups, lr=lr)

    return make


def _sgd(groups: Any, lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=lr)


def _adafactor(groups: Any, lr: float) -> torch.optim.Optimizer:
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
    """Return the optimizer. Weight decay applies to matrices, never to biases and norms, for every method alike."""
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
