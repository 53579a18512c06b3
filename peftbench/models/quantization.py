"""Quantize what transformers' bitsandbytes loader skips without a word: falcon's linear layers, fused experts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn

from peftbench.models.precision import Precision

_LINEAR = ("FalconLinear",)
"""Subclasses of ``nn.Linear`` that compute x W^T + b too; in 16 bits falcon's rounds once more, before it adds b."""


def config(precision: Precision, double_quantization: bool) -> Any:
    """Return what tells transformers how to quantize linear layers as it loads them."""
    from transformers import BitsAndBytesConfig

    if precision.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=precision.quantization,
        bnb_4bit_use_double_quant=double_quantization,
        bnb_4bit_compute_dtype=getattr(torch, precision.compute),
    )


@contextmanager
def every_linear_layer() -> Iterator[None]:
    """Let transformers quantize subclasses of ``nn.Linear`` that compute what it does, while a model is loaded.

    Its replacement asks for ``type(module) is nn.Linear`` and passes over all others. They become exactly that before
    it looks, with their weights' names as they were.
    """
    from transformers import integrations

    replace = integrations.replace_with_bnb_linear

    def replace_all(model: nn.Module, *given: Any, **named: Any) -> Any:
        for module in model.modules():
            if type(module).__name__ in _LINEAR:
                module.__class__ = nn.Linear
        return replace(model, *given, **named)

    with mock.patch.object(integrations, "replace_with_bnb_linear", replace_all):
        yield


def quantize_experts(model: nn.Module, precision: Precision, double_quantization: bool) -> None:
    """Store fused experts in 4 bits: parameters of shape (experts, out, in) or (experts, in, out), as in mixtral.

    bitsandbytes keeps their codes and gives back the matrices, in the precision's compute type, when a forward pass
    reads them; gradients flow through what is multiplied with them. Blocks and double quantization are those of the
    linear layers. What this costs, and where it ends:

    - Autograd keeps the matrices of every layer for the backward pass, in 16 bits, booked under activations: a step's
      peak can be above that of bf16. With gradient checkpointing those of one layer exist at a time.
    - They are loaded in 16 bits before they are quantized.
    - LoRA on them does not exist: where a parametrization is there already, peft 0.21 adds its update once more with
      every forward pass, and torch's cache gives the inner of two updates no gradient. ``all-linear`` passes over them,
      as peft finds no parameter of that name; a trial's row says so (``adapted_share``).
    - int8 has no such form in bitsandbytes: such a base is refused.

    Args:
        model: the loaded base.
        precision: of four bits; otherwise nothing is done.
        double_quantization: whether quantization constants are quantized too.
    """
    if precision.quantization not in ("nf4", "fp4"):
        return
    from bitsandbytes.nn.parametrize import replace_parameter_4bit

    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            if is_fused(module, parameter):
                replace_parameter_4bit(
                    module, name, compress_statistics=double_quantization, quant_type=precision.quantization
                )
                stored = module.parametrizations[name]  # type: ignore[index,union-attr]
                state = stored[0].quant_state  # type: ignore[index,union-attr]
                state.dtype = getattr(torch, precision.compute)  # of what a forward pass reads
                stored.original.quant_state = state  # type: ignore[union-attr]


def is_fused(module: nn.Module, parameter: torch.Tensor) -> bool:
    """Whether a module's own parameter holds a matrix for each of several experts."""
    convolution = type(module).__name__.startswith("Conv")
    return parameter.ndim == 3 and min(parameter.shape[1:]) > 1 and not convolution and parameter.is_floating_point()
