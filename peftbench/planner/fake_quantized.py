"""Quantized layers of a model without weights: bitsandbytes' layers with tensors of the right shapes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from bitsandbytes.functional import QuantState
from bitsandbytes.nn import Int8Params, Linear4bit, Linear8bitLt, Params4bit, parametrize
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers.quantizers import AutoHfQuantizer

from peftbench.models import quantization
from peftbench.models.precision import Precision
from peftbench.models.storage import parts

_BLOCK, _SCALES_BLOCK = 64, 256
"""Weights per scale, and scales per second-level scale (double quantization): bitsandbytes' defaults."""
_LEVELS, _SCALE_LEVELS = 16, 256


def quantize(model: Any, settings: Any) -> None:
    """Turn a model on the device ``meta`` into what transformers would load with a quantization config.

    transformers chooses which layers are quantized. Only the weights are made here, since quantizing reads values.

    Args:
        model: the model, every parameter on ``meta``.
        settings: a ``BitsAndBytesConfig``, or a ``TorchAoConfig``.
    """
    quantizer = AutoHfQuantizer.from_config(settings, pre_quantized=False)
    quantizer.preprocess_model(model, device_map={"": "cpu"})
    if settings.quant_method == "torchao":
        _torchao(model, settings, quantizer)
        return
    for module in model.modules():
        if isinstance(module, Linear4bit):
            _four_bits(module, model.dtype)
        elif isinstance(module, Linear8bitLt):
            _eight_bits(module)
        if isinstance(module, Linear4bit | Linear8bitLt) and module.bias is not None:
            module.bias.data = module.bias.data.to(model.dtype)
    quantizer.postprocess_model(model)


def _torchao(model: Any, settings: Any, quantizer: Any) -> None:
    """Quantize the layers that transformers chooses by torchao itself, which only computes shapes on ``meta``."""
    from torchao.quantization import quantize_

    def chosen(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear) and quantizer.param_needs_quantization(model, f"{name}.weight")

    quantize_(model, settings.quant_type, chosen)


def quantize_experts(model: Any, precision: Precision, double_quantization: bool) -> None:
    """Quantize experts as ``quantization.quantize_experts`` does, with uninitialized codes and scales."""

    def quantize_4bit(weight: torch.Tensor, *_: Any, **settings: Any) -> tuple[torch.Tensor, QuantState]:
        double, kind = settings["compress_statistics"], settings["quant_type"]
        return _codes(weight), _state(weight, weight.dtype, double, kind)

    with mock.patch.object(parametrize.F, "quantize_4bit", quantize_4bit):
        quantization.quantize_experts(model, precision, double_quantization)


def _four_bits(layer: Any, dtype: torch.dtype) -> None:
    """Give a layer the tensors that ``quantize_4bit`` would make."""
    weight = layer.weight
    state = _state(weight, dtype, weight.compress_statistics, weight.quant_type)
    layer.weight = Params4bit(
        _codes(weight),
        quant_state=state,
        blocksize=_BLOCK,
        compress_statistics=weight.compress_statistics,
        quant_type=weight.quant_type,
        module=layer,
        bnb_quantized=True,
    )
    layer.quant_state = state


def _codes(weight: torch.Tensor) -> torch.Tensor:
    """Return 4-bit codes, two per byte."""
    return torch.empty(math.ceil(weight.numel() / 2), 1, device="meta", dtype=torch.uint8)


def _state(weight: torch.Tensor, dtype: torch.dtype, double: bool, kind: str) -> QuantState:
    """Return the scales of 4-bit codes; with ``double``, they are quantized too."""
    blocks = math.ceil(weight.numel() / _BLOCK)
    nested: dict[str, Any] = {}
    if double:
        nested["offset"] = torch.empty((), device="meta")
        nested["state2"] = QuantState(
            absmax=torch.empty(math.ceil(blocks / _SCALES_BLOCK), device="meta"),
            code=torch.empty(_SCALE_LEVELS, device="meta"),
            blocksize=_SCALES_BLOCK,
            dtype=torch.float32,
        )
    return QuantState(
        absmax=torch.empty(blocks, device="meta", dtype=torch.uint8 if nested else torch.float32),
        shape=weight.shape,
        code=torch.empty(_LEVELS, device="meta"),
        blocksize=_BLOCK,
        quant_type=kind,
        dtype=dtype,
        **nested,
    )


def _eight_bits(layer: Any) -> None:
    """Give a layer the tensors that ``int8_vectorwise_quant`` would make: codes, and a scale per output."""
    codes = torch.empty(layer.weight.shape, device="meta", dtype=torch.int8)
    layer.weight = Int8Params(codes, requires_grad=False)
    layer.weight.CB, layer.weight.SCB = layer.weight.data, torch.empty(codes.shape[0], device="meta")


class _FakeParams4bit(FakeTensor):
    """A fake tensor that peft recognizes as packed weights, by the name of its class."""


class _FakeInt8Params(FakeTensor):
    """A fake tensor that peft recognizes as 8-bit codes, by the name of its class."""


_FakeParams4bit.__name__, _FakeInt8Params.__name__ = Params4bit.__name__, Int8Params.__name__


def rebuilt(tensor: Any, other: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor | None:
    """Return a weight of torchao made of other tensors than its own; None if it is none."""
    if len(parts(tensor)) == 1:
        return None
    names, context = tensor.__tensor_flatten__()
    inner = {name: other(getattr(tensor, name)) for name in names}
    made: torch.Tensor = type(tensor).__tensor_unflatten__(inner, context, tensor.shape, tensor.stride())
    return nn.Parameter(made, requires_grad=False) if isinstance(tensor, nn.Parameter) else made


def name(parameter: Any, like: torch.Tensor) -> None:
    """Give a fake parameter the class name of the bitsandbytes parameter that it replaces, if it is one."""
    kind = {Params4bit: _FakeParams4bit, Int8Params: _FakeInt8Params}.get(type(like))
    if kind is not None:
        parameter.__class__ = kind


def states(module: nn.Module) -> list[Any]:
    """Return the objects with the quantization tensors (scales, codebooks) of a module's own parameters."""
    found: list[Any] = []
    for parameter in module._parameters.values():
        state = getattr(parameter, "quant_state", None)
        while state is not None:
            found.append(state)
            state = state.state2
    return found
