"""Which methods exist in which precision, on which device, with gradient checkpointing and with packing. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from peftbench.methods import Method, Setting, offload_support
from peftbench.methods.peft_fields import CHANGED
from peftbench.models import compilers
from peftbench.models.precision import PRECISIONS, effective
from peftbench.records import OPTIMIZERS, Devices, Optimizer, Training
from peftbench.records.attention import ATTENTIONS, AUTO

COMPUTED = ("bf16", "bf16-true")
"""Precisions whose products ``train.compute`` can replace."""
LIGER: Mapping[str, str] = MappingProxyType({"logits": "chunked", "kernels": "none"})
"""Settings that can be ``liger``, with what is told to use instead."""
_ALONE: Mapping[str, str] = MappingProxyType(
    {"offload": "none", "compute": "auto", "compile": "none", "kernels": "none"}
)
"""Settings with their default of which ``compile`` and ``kernels`` allow no other to differ from it."""


@dataclass(frozen=True)
class Refusal:
    """A cell that cannot exist."""

    cell: str
    """What does not exist: "full does not exist in nf4"."""
    why: str = ""
    """The reason as a clause; empty if ``cell`` states it."""

    @property
    def message(self) -> str:
        """The whole sentence."""
        return f"{self.cell}, because {self.why}" if self.why else self.cell

    @property
    def reason(self) -> str:
        """The reason without the cell, so that cells can be grouped by it."""
        return self.why or self.cell


def refusal(method: Method, precision: str, device: str, training: Training | None) -> Refusal | None:
    """Return why a method cannot be trained with these settings, or None if it can.

    Args:
        method: record of the method.
        precision: name of the precision.
        device: ``cpu`` or ``cuda``.
        training: the training settings; None for the untuned base model.
    """
    found = Refusal(f"{_name(method)}: {method.why_never}") if method.why_never else None
    found = found or _no_precision(method, precision, device)
    if training and training.gradient_checkpointing:
        found = found or _no_checkpointing(method)
    if training and training.packing:
        found = found or _no_packing(method)
    found = found or _no_offload(method, precision, device, training)
    if training and training.compute != "auto":
        found = found or _no_compute(method, precision, training.compute)
    if training and training.compile != "none":
        found = found or _no_compile(training, device)
    if training:
        found = found or _no_liger(training, device)
    if training and training.attention != AUTO:
        found = found or _no_attention(training.attention, precision, device)
    return found or (_no_optimizer(method, precision, training) if training else None)


def option_refusal(
    method: Method, options: Mapping[str, Any], devices: Devices | None, training: Training | None
) -> Refusal | None:
    """Return which of a method's options another one, the strategy or the optimizer excludes, and why.

    None if none is excluded.

    Args:
        method: record of the method.
        options: the options of a cell.
        devices: the cell's devices; None for one.
        training: the training settings; None for the untuned base model.
    """
    if training and (why := offload_support.why_none_frozen(method, options, training)):
        return Refusal(f"{_name(method)} does not exist with offload: {training.offload}", why)
    given = {name: method.options[name] for name, value in options.items() if _is_given(method, name, value)}
    for name, setting in given.items():
        for other, why in setting.excludes.items():
            if other in given:
                return Refusal(f"{_name(method)} does not exist with both {name} and {other}", why)
        if devices is not None and devices.strategy in setting.not_on:
            return Refusal(
                f"{_name(method)} with {name} does not run on {devices.name}", setting.not_on[devices.strategy]
            )
        why = _not_with(setting, OPTIMIZERS[training.optimizer]) if training else ""
        if training and why:
            return Refusal(f"{_name(method)} with {name} does not exist with optimizer {training.optimizer}", why)
        if training and training.compile != "none" and setting.why_no_compile:
            cell = f"{_name(method)} with {name} does not exist with compile: {training.compile}"
            return Refusal(cell, setting.why_no_compile)
    return None


def _not_with(setting: Setting, optimizer: Optimizer) -> str:
    """Return why an option does not exist with an optimizer; empty if it does."""
    return (optimizer.scores_mean and setting.why_no_mean) or (optimizer.paged and setting.why_no_paged) or ""


def _is_given(method: Method, name: str, value: Any) -> bool:
    return name in method.options and value != method.options[name].default


def why_unsupported(method: Method, precision: str, device: str) -> str | None:
    """Return why a cell of method, precision and device is unsupported; None if it is supported."""
    found = _no_precision(method, precision, device)
    return found.message if found else None


def why_no_checkpointing(method: Method) -> str | None:
    """Return why a method cannot train with gradient checkpointing; None if it can."""
    found = _no_checkpointing(method)
    return found.message if found else None


def _no_precision(method: Method, precision: str, device: str) -> Refusal | None:
    if precision not in method.precisions:
        return Refusal(f"{method.name} does not exist in {precision}", method.why_not)
    if device not in PRECISIONS[precision].devices:
        return Refusal(f"{precision} does not exist on {device} (only on {', '.join(PRECISIONS[precision].devices)})")
    return None


def _no_checkpointing(method: Method) -> Refusal | None:
    if not method.why_no_checkpointing:
        return None
    return Refusal(f"{_name(method)} does not exist with gradient checkpointing", method.why_no_checkpointing)


def _no_packing(method: Method) -> Refusal | None:
    why = method.why_no_packing
    if method.virtual_tokens:
        why = "its virtual tokens are prepended to a whole row, not to each example"
    return Refusal(f"{_name(method)} does not exist with packing", why) if why else None


def _no_offload(method: Method, precision: str, device: str, training: Training | None) -> Refusal | None:
    found = offload_support.refused(method, precision, device, training) if training else None
    return Refusal(*found) if found else None


def _no_compute(method: Method, precision: str, compute: str) -> Refusal | None:
    if precision in COMPUTED:
        why = "it multiplies by weights that it has changed, and not by the base model's layers"
        return (
            Refusal(f"{_name(method)} does not exist with compute: {compute}", why)
            if method.variant in CHANGED
            else None
        )
    why = "quantized weights are dequantized, and then multiplied in 16 bits"
    if PRECISIONS[precision].quantization is None:
        why = f"it takes the place of matrix products in bf16; allowed: {', '.join(COMPUTED)}"
    return Refusal(f"{precision} does not exist with compute: {compute}", why)


def _no_compile(training: Training, device: str) -> Refusal | None:
    what = f"compile: {training.compile}"
    if training.gradient_checkpointing == "selective":
        why = "operators within compiled code cannot be kept one by one; use gradient_checkpointing: true"
        return Refusal(f"{what} does not exist with gradient_checkpointing: selective", why)
    missing = compilers.why_missing(device)
    refused = Refusal(f"{what} does not run here", f"{missing}; use compile: none") if missing else None
    return _untried("compile", training) or refused


def _no_liger(training: Training, device: str) -> Refusal | None:
    used = [key for key in LIGER if getattr(training, key) == "liger"]
    for key in used:
        if device != "cuda":
            return Refusal(f"{key}: liger does not train on {device} (only on cuda); use {key}: {LIGER[key]}")
        if find_spec("liger_kernel") is None:
            why = "it needs the package liger-kernel, which is not installed: pip install liger-kernel"
            return Refusal(f"{key}: liger does not run here", why)
    return _untried("kernels", training) if "kernels" in used else None


def _untried(key: str, training: Training) -> Refusal | None:
    """Return which other setting was not tried with one that is not at its default; None if all were."""
    for name, default in _ALONE.items():
        value = getattr(training, name)
        if name != key and value != default:
            why = f"they were not tried together; use {name}: {default}, or {key}: none"
            return Refusal(f"{key}: {getattr(training, key)} does not exist with {name}: {value}", why)
    return None


def _no_attention(name: str, precision: str, device: str) -> Refusal | None:
    record, computes = ATTENTIONS[name], effective(precision, {})
    if device not in record.devices:
        return Refusal(f"attention {name} does not train on {device} (only on {', '.join(record.devices)})")
    if record.half and (computes.autocast or computes.trainable) == "float32":
        return Refusal(f"{precision} does not exist with attention {name}", "its kernels compute in 16 bits only")
    return None


def _no_optimizer(method: Method, precision: str, training: Training) -> Refusal | None:
    record = OPTIMIZERS[training.optimizer]
    if record.only_full and not method.trains_base:
        why = f"it trains whole models: {record.only_full}"
        return Refusal(f"{_name(method)} does not exist with optimizer {record.name}", why)
    why = _no_mean(method)
    if record.scores_mean and why:
        return Refusal(f"{_name(method)} does not exist with optimizer {record.name}", why)
    if record.in_backward and effective(precision, {}).gradient_scaling:
        why = "the gradient scaler needs all gradients to decide on a step, and they are used one at a time; use bf16"
        return Refusal(f"{precision} does not exist with optimizer {record.name}", why)
    return None


def excluded(training: Training) -> Refusal | None:
    """Return which setting an optimizer excludes, with what to write instead; None if it excludes none.

    Args:
        training: settings of a trial on one device, or of one that ``strategies.refusal`` lets run on several.
    """
    record = OPTIMIZERS[training.optimizer]
    only, why = record.only_schedule
    if only and training.schedule != only:
        return Refusal(f"{record.name} needs schedule: {only}, because {why}")
    if record.in_backward and training.clip_norm is not None:
        return Refusal(
            f"{record.name} frees each gradient before the norm over all of them is known: write clip_norm: null"
        )
    if record.in_backward and training.micro_batch_size != training.batch_size:
        return Refusal(
            f"{record.name} frees each gradient once it is used, so that none is added up over micro-batches: leave "
            f"out micro_batch_size, or write {training.batch_size}, which is batch_size"
        )
    return None


def _no_mean(method: Method) -> str:
    """Return why a mean of a method's weights over the steps is not to be scored; empty if it may be."""
    if method.after_step and not method.attach.startswith("peftbench."):
        return "its after_step may change weights between steps, and an average over the steps is scored"
    return method.why_no_mean


def _name(method: Method) -> str:
    return f"{method.name} {method.variant}".strip()
