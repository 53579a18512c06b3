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

from peftbench.models import head
from peftbench.records import OPTIMIZERS, Training
from peftbench.records.optimizer_bytes import APOLLO_RANK, GALORE_RANK
from peftbench.training import frozen_factor, riemannian
from peftbench.training.apollo import Apollo
from peftbench.training.several_optimizers import Several


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

    Differs from the paper: the learning rate is the schedule's and not relative to the step or to the scale of the
    tensor. Adafactor still clips each update to a root mean square of 1, after the gradient clipping of all methods.

    References:
        Shazeer & Stern 2018, arXiv:1804.04235.
    """
    from transformers import Adafactor

    return Adafactor(groups, lr=lr, scale_parameter=False, relative_step=False)


def _muon(groups: Any, lr: float) -> Any:
    """Return Muon for the hidden matrices and AdamW for everything else.

    Muon's step is scaled so that its root mean square is AdamW's (0.2), by which it takes AdamW's learning rates and
    weight decay.

    References:
        Jordan et al. 2024, https://kellerjordan.github.io/posts/muon; Liu et al. 2025, arXiv:2502.16982, equation 4.
    """
    hidden, rest = _split(groups)
    parts: list[Any] = [torch.optim.Muon(hidden, lr=lr, adjust_lr_fn="match_rms_adamw")] if hidden else []
    return Several([*parts, _adamw(rest, lr)] if rest else parts)


def _schedule_free_adamw(groups: Any, lr: float) -> Any:
    from schedulefree import AdamWScheduleFree

    made = AdamWScheduleFree(groups, lr=lr)
    made.train()
    return made


def _galore_adamw(groups: Any, lr: float) -> Any:
    """Return GaLore for the hidden matrices and AdamW for everything else, with transformers' default settings.

    References:
        Zhao et al. 2024, arXiv:2403.03507, algorithm 2.
    """
    from pytorch_optimizer import GaLore
    from pytorch_optimizer.optimizer.utils.galore import GaLoreProjector

    settings = {"rank": GALORE_RANK, "update_proj_gap": 200, "scale": 0.25, "projection_type": "std"}
    hidden, rest = _split(groups)
    made = GaLore([{**group, **settings} for group in hidden] + rest, lr=lr)
    made.new_objects = {"projector": GaLoreProjector}
    return made


def _apollo(rank: int, scale: float, by_column: bool) -> Callable[[Any, float], Any]:
    """Return a function that makes APOLLO for the hidden matrices and AdamW for everything else."""

    def make(groups: Any, lr: float) -> Any:
        hidden, rest = _split(groups)
        parts: list[Any] = [Apollo(hidden, lr, rank, scale, by_column)] if hidden else []
        return Several([*parts, _adamw(rest, lr)] if rest else parts)

    return make


def _split(groups: Any) -> tuple[list[Any], list[Any]]:
    """Return the groups of hidden matrices, and the others."""
    return [g for g in groups if g[HIDDEN]], [g for g in groups if not g[HIDDEN]]


def _in_backward(make_one: Callable[[Any, float], Any]) -> Callable[[Any, float], Any]:
    """Return a function that makes an optimizer for each parameter, which steps in the backward pass."""

    def make(groups: Any, lr: float) -> Any:
        each = [{**group, "params": [parameter]} for group in groups for parameter in group["params"]]
        return Several([make_one([group], lr) for group in each], in_backward=True)

    return make


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
        "paged_lion": _bitsandbytes("PagedLion32bit"),
        "paged_lion_8bit": _bitsandbytes("PagedLion8bit"),
        "ademamix": _bitsandbytes("AdEMAMix"),
        "ademamix_8bit": _bitsandbytes("AdEMAMix8bit"),
        "muon": _muon,
        "schedule_free_adamw": _schedule_free_adamw,
        "galore_adamw": _galore_adamw,
        "apollo": _apollo(APOLLO_RANK, 1.0, by_column=True),
        "apollo_mini": _apollo(1, math.sqrt(128), by_column=False),
        "lomo": _in_backward(_sgd),
        "adafactor_in_backward": _in_backward(_adafactor),
    }
)
"""One function for each of ``records.OPTIMIZERS``: parameter groups and a learning rate to an optimizer."""


RATIO = "rate_ratio"
"""Key of a parameter group: its learning rate as a multiple of the schedule's."""
HIDDEN = "hidden"
"""Key of a parameter group: whether its parameters are matrices within the model, neither embeddings nor head."""


def make(parameters: Sequence[nn.Parameter], training: Training, model: Any = None) -> Any:
    """Return the optimizer. For every method, weight decay applies to tensors of two or more dimensions.

    So projections, embeddings, virtual tokens and LoRA's A and B decay; biases, norms, DoRA's magnitudes and
    LLaMA-Adapter's gates do not.

    A parameter with an attribute ``peftbench_rate_ratio`` (``methods.lora_plus``) trains at that multiple of the rate:
    its group carries the ratio as ``rate_ratio``, by which ``set_rate`` multiplies the schedule's rate. The gradient of
    one that ``frozen_factor`` or ``riemannian`` has marked is changed before each step.

    Args:
        parameters: those that train.
        training: the settings.
        model: their model, in which Muon and GaLore find what is an embedding or a head; without it nothing is.
    """
    apart = _ends(model) if OPTIMIZERS[training.optimizer].hidden_apart else None
    groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    for parameter in sorted(parameters, key=lambda p: (p.ndim < 2, _ratio(p))):  # stable
        hidden = apart is not None and parameter.ndim == 2 and parameter not in apart
        groups.setdefault((parameter.ndim >= 2, _ratio(parameter), hidden), []).append(parameter)
    made = [
        {
            "params": members,
            "weight_decay": training.weight_decay if decays else 0.0,
            "lr": training.learning_rate * ratio,
            RATIO: ratio,
            **({} if apart is None else {HIDDEN: hidden}),
        }
        for (decays, ratio, hidden), members in groups.items()
    ]
    optimizer = MAKERS[training.optimizer](made, training.learning_rate)
    frozen_factor.correct_before_steps(optimizer)
    riemannian.precondition_before_steps(optimizer)
    return optimizer


def _ends(model: Any) -> set[nn.Parameter]:
    """Return the parameters of a model's embeddings and of its output layer."""
    if model is None:
        return set()
    found = {p for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()}
    output = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    found |= set(output.parameters()) if output is not None else set()
    apart = head.apart(model)
    return found | {p for p in model.parameters() if id(p) in apart}


def _ratio(parameter: nn.Parameter) -> float:
    return float(getattr(parameter, "peftbench_rate_ratio", 1.0))


def set_rate(optimizer: Any, rate: float) -> None:
    """Set the learning rate of a step in every group, times the group's ratio."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group[RATIO]


def to_training(optimizer: Any) -> None:
    """Bring the weights to where a schedule-free optimizer takes gradients; nothing with others."""
    if hasattr(optimizer, "train"):
        optimizer.train()


def to_evaluation(optimizer: Any) -> None:
    """Bring the weights to the mean that a schedule-free optimizer scores; nothing with others."""
    if hasattr(optimizer, "eval"):
        optimizer.eval()


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
