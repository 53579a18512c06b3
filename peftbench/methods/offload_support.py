"""Which cells can keep what on the host (``train.offload``), and why the others cannot. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftbench.methods import FOUR_BIT, QUANTIZED, Method
from peftbench.methods.peft_fields import CHOOSING
from peftbench.models.precision import effective
from peftbench.records import OPTIMIZERS, Training

_OF_A_CPU = {
    "activations": "activations are",
    "weights": "weights are",
    "optimizer": "gradients and optimizer state are",
    "all": "tensors are",
}
"""What each value moves, with its verb."""


def refused(method: Method, precision: str, device: str, training: Training) -> tuple[str, str] | None:
    """Return the cell that does not exist, and why, as in ``support.Refusal``; None if it exists.

    Args:
        method: record of the method.
        precision: name of the precision.
        device: ``cpu`` or ``cuda``.
        training: the training settings.
    """
    kept = training.offload
    if device == "cpu" and kept != "none":
        why = f"a CPU's {_OF_A_CPU[kept]} in the host's memory already, of which copies would take more"
        return f"offload: {kept} does not exist on cpu", f"{why}; use offload: none"
    why = why_no_optimizer(method, precision, training) if training.offloads("optimizer") else ""
    if training.offloads("weights") and not method.trains_base:
        why = why or why_no_weights(precision, training)
    name = f"{method.name} {method.variant}".strip()
    return (f"{name} {precision} does not exist with offload: {kept}", why) if why else None


def why_no_optimizer(method: Method, precision: str, training: Training) -> str:
    """Return why a cell cannot take its optimizer's steps on the host; empty if it can."""
    record = OPTIMIZERS[training.optimizer]
    if record.paged:
        return f"the driver moves the state of {record.name} between host and device; use optimizer: adamw"
    if record.in_backward:
        return (
            f"{record.name} has one gradient at a time and next to no state, so that there is nothing to keep on the "
            "host; use offload: none or activations"
        )
    if record.scores_mean:
        return (
            f"{record.name} computes the weights that are scored from its state, between steps and on the device; use "
            "optimizer: adamw"
        )
    if effective(precision, {}).gradient_scaling:
        return "torch's gradient scaler keeps its scale on the device, and gradients are on the host; use bf16"
    if method.variant in CHOOSING:
        return "it prunes by weights and gradients after each step, when gradients on the host are freed"
    if method.after_step and not method.attach.startswith("peftbench."):
        return "its after_step may use gradients after each step, when those on the host are freed"
    return ""


def why_no_weights(precision: str, training: Training) -> str:
    """Return why a cell cannot keep frozen weights on the host; empty if it can."""
    if training.compute != "auto":
        return f"it was not tried with compute: {training.compute}; use compute: auto, or offload: activations"
    if precision in FOUR_BIT:
        return (
            "bitsandbytes' 4-bit products keep the codes on the device until the backward pass, of layers that are "
            "computed again too, so that nothing would be saved; use bf16, or offload: activations"
        )
    if precision in QUANTIZED:
        return (
            "the layers of its library hold codes and scales in objects of their own, which cannot be moved one by "
            "one; use bf16, or offload: activations"
        )
    return ""


def why_none_frozen(method: Method, options: Mapping[str, Any], training: Training) -> str:
    """Return why a cell has no frozen weights that could be kept on the host; empty if it has some, or needs none."""
    if training.offload != "weights" or not method.trains_base or options.get("layers") or options.get("modules"):
        return ""
    return "all of its weights train; use offload: optimizer"
