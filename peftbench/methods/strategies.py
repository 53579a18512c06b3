"""Which methods, precisions and training settings each strategy for several devices can run. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from peftbench.methods import METHODS, QUANTIZED, TORCHAO, Method, support
from peftbench.methods.support import Refusal
from peftbench.models.precision import effective
from peftbench.records import OPTIMIZERS, STRATEGIES, Devices, Optimizer, Training

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Limits:
    """What one strategy cannot run: name -> the reason, with a way out, as the end of "... because"."""

    never: str = ""
    """Why it runs nothing; empty if it runs something."""
    precisions: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    methods: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """By the method's name and, if it has variants, the variant's."""
    others: str = ""
    """Why it runs no method but those of ``runs``; empty if it runs all that are not in ``methods``."""
    runs: tuple[str, ...] = ()
    optimizers: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    """As what follows the optimizer's name: "takes no shards"."""
    logits: str = ""
    """Why it makes logits at all positions only, as what follows the setting; empty if it makes them at some alone."""
    selective: str = ""
    """Why it does not run gradient_checkpointing: selective, as what follows the setting; empty if it does."""
    gradient_scaling: str = ""
    """Why it cannot scale gradients, as fp16 does; empty if it can."""


_ADAMW = "; use optimizer: adamw"
_BLOCKS = f"quantizes its state in blocks of whole tensors, and takes no shards{_ADAMW}"
_PAGED = f"takes no shards{_ADAMW}, with offload: cpu to keep its state on the host"
_KERNELS = f"has kernels that take no DTensors, which FSDP2's shards are{_ADAMW}"
_MATRICES = f"works on whole matrices, and each device holds a part of them{_ADAMW}"
_MEANS = f"takes means over rows and columns of whole tensors, and each device holds a part of them{_ADAMW}"
_ONE_DEVICE = dict.fromkeys(
    (name for name, record in OPTIMIZERS.items() if record.in_backward),
    f"takes its steps in the backward pass, before gradients are exchanged{_ADAMW}",
)
_INT8 = "FSDP2 replaces the weight objects that hold bitsandbytes' int8 scales; use nf4, bf16, or ddp"
_SUBCLASS = "FSDP2 cannot divide torchao's weights, whose objects hold their scales; use nf4, bf16, or ddp"
_PLAIN = "only plain linear layers are divided, not quantized ones; use bf16, or ddp"
_WHOLE = "a pipeline's stages are cut from plain weights, not quantized ones; use bf16, or ddp"
_DIVIDED = ("full", "lora", "adapter")
_SCALER = "torch's gradient scaler would skip a step on one device and not on another; use bf16"
_SHARED = "its layers share parameters, and FSDP2 gathers each layer by itself; use ddp"

_UNCHECKED = (
    "is checked against gradients without it before training, for which a device needs the whole model; use "
    "gradient_checkpointing: true, or strategy: ddp"
)

LIMITS: Mapping[str, Limits] = MappingProxyType(
    {
        "ddp": Limits(optimizers=_ONE_DEVICE),
        "fsdp2": Limits(
            precisions={"int8": _INT8, "int8-fp32": _INT8, **dict.fromkeys(TORCHAO, _SUBCLASS)},
            optimizers={
                "adamw_8bit": _BLOCKS,
                "paged_adamw": _PAGED,
                "paged_adamw_8bit": _PAGED,
                "lion": _KERNELS,
                "lion_8bit": _BLOCKS,
                "paged_lion": _PAGED,
                "paged_lion_8bit": _PAGED,
                "ademamix": _KERNELS,
                "ademamix_8bit": _BLOCKS,
                "muon": _MATRICES,
                "galore_adamw": _MATRICES,
                "apollo": _MATRICES,
                "apollo_mini": _MATRICES,
                "schedule_free_adamw": f"was not tried with FSDP2's shards{_ADAMW}",
                **_ONE_DEVICE,
                "adafactor": _MEANS,
            },
            methods={
                "peft ADALORA": "AdaLoRA ranks its whole tensors after each step, and a device has shards; use ddp",
                **dict.fromkeys(("peft TINYLORA", "peft VBLORA"), _SHARED),
            },
            selective=_UNCHECKED,
            gradient_scaling="torch's gradient scaler looks for infinite values in one device's shards only; use bf16",
        ),
        "zero3": Limits(
            "fsdp2 divides weights, gradients and optimizer state as ZeRO-3 does (Rajbhandari et al. 2020, "
            "arXiv:1910.02054), without another library; use fsdp2"
        ),
        "tp": Limits(
            precisions=dict.fromkeys(QUANTIZED, _PLAIN),
            others="its tensors are not divided with the attention heads and projections beside them; use ddp or fsdp2",
            runs=_DIVIDED,
            optimizers={
                "adamw_8bit": _BLOCKS,
                "paged_adamw_8bit": _BLOCKS,
                "lion_8bit": _BLOCKS,
                "paged_lion_8bit": _BLOCKS,
                "ademamix_8bit": _BLOCKS,
                "adafactor": _MEANS,
                "muon": _MATRICES,
                "galore_adamw": _MATRICES,
                "apollo": _MATRICES,
                "apollo_mini": _MATRICES,
                **_ONE_DEVICE,
            },
            selective="gives back what it keeps by the order of operators, which is another when divided layers are "
            "computed again; use gradient_checkpointing: true, or strategy: ddp",
            gradient_scaling=_SCALER,
        ),
        "pp": Limits(
            precisions=dict.fromkeys(QUANTIZED, _WHOLE),
            others="its tensors are not assigned to stages; use ddp or fsdp2",
            runs=_DIVIDED,
            optimizers=_ONE_DEVICE,
            logits="gives each micro-batch its own number of positions, and stages exchange tensors of one shape; use "
            "logits: all, or strategy: tp",
            gradient_scaling=_SCALER,
        ),
        "device_map": Limits("this release does not run it; use ddp or fsdp2"),
    }
)
"""One record for each of ``records.STRATEGIES``."""


def refusal(
    method: Method, precision: str, devices: Devices | None, device: str, training: Training | None
) -> Refusal | None:
    """Return why a cell cannot run on several devices, or None if it can.

    Args:
        method: record of the method.
        precision: name of the precision.
        devices: the cell's devices; None for one, on which everything runs.
        device: ``cpu`` or ``cuda``.
        training: the training settings; None for the untuned base model.
    """
    if devices is None or training is None:
        return None
    why = _why_not_at_all(devices, device) or _why_not(LIMITS[devices.strategy], method, precision, training)
    if training.offload != "none":
        why = why or f"offload: {training.offload} was not tried on several devices; use offload: none, or one device"
    if training.logits == "liger":
        why = why or "logits: liger was not tried on several devices; use logits: chunked, or one device"
    if training.compute != "auto":
        why = why or f"compute: {training.compute} was not tried on several devices; use compute: auto, or one device"
    for key, value in (("compile", training.compile), ("kernels", training.kernels)):
        if value != "none":
            why = why or f"{key}: {value} was not tried on several devices; use {key}: none, or one device"
    name = f"{method.name} {method.variant}".strip()
    return Refusal(f"{name} {precision} does not run on {devices.name}", why) if why else None


def refusal_of_cell(
    method: Method,
    precision: str,
    device: str,
    training: Training | None,
    options: Mapping[str, Any],
    devices: Devices | None,
) -> Refusal | None:
    """Return the first reason why a cell cannot exist, of all that its settings can have; None if it can.

    Args:
        method: record of the method.
        precision: name of the precision.
        device: ``cpu`` or ``cuda``.
        training: the training settings; None for the untuned base model.
        options: the method's options.
        devices: the cell's devices; None for one.
    """
    return (
        support.refusal(method, precision, device, training)
        or refusal(method, precision, devices, device, training)
        or support.option_refusal(method, options, devices, training)
        or (support.excluded(training) if training else None)
    )


def why_everywhere(precision: str) -> str:
    """Return why each rank of a trial under fsdp2 reads the base model itself; empty if rank 0 alone does."""
    return "quantized weights are loaded whole, together with their scales" if precision in QUANTIZED else ""


def supported(strategy: str, method: Method, precision: str) -> str:
    """Return why a strategy does not run a method at a precision with the default settings; empty if it does."""
    limits = LIMITS[strategy]
    return limits.never or _why_not(limits, method, precision, None)


def divides(strategy: str, optimizer: Optimizer) -> bool:
    """Whether a strategy runs some methods with an optimizer."""
    limits = LIMITS[strategy]
    return not limits.never and optimizer.name not in limits.optimizers


def _why_not_at_all(devices: Devices, device: str) -> str:
    where = STRATEGIES[devices.strategy].devices
    if device not in where:
        return f"{devices.strategy} exists on {', '.join(where)} only, where it needs {devices.count} GPUs"
    return LIMITS[devices.strategy].never


def _why_not(limits: Limits, method: Method, precision: str, training: Training | None) -> str:
    scaled = effective(precision, {}).gradient_scaling
    optimizer, logits = (training.optimizer, training.logits) if training else ("adamw", "all")
    selective = training is not None and training.gradient_checkpointing == "selective"
    return (
        limits.methods.get(f"{method.name} {method.variant}".strip(), "")
        or (limits.others if limits.runs and method.name not in limits.runs else "")
        or limits.precisions.get(precision, "")
        or _no_optimizer(limits, OPTIMIZERS[optimizer])
        or (f"logits: {logits} {limits.logits}" if limits.logits and logits != "all" else "")
        or (f"gradient_checkpointing: selective {limits.selective}" if limits.selective and selective else "")
        or (limits.gradient_scaling if scaled else "")
    )


def _no_optimizer(limits: Limits, optimizer: Optimizer) -> str:
    why = limits.optimizers.get(optimizer.name)
    package = optimizer.made_by.partition(" ")[0]
    return f"its optimizer {optimizer.name} ({package}) {why}" if why else ""


assert set(LIMITS) == set(STRATEGIES)
assert set(OPTIMIZERS).issuperset(name for limits in LIMITS.values() for name in limits.optimizers)
assert set(METHODS.own).issuperset(name.partition(" ")[0] for limits in LIMITS.values() for name in limits.methods)
