"""How transformers is to quantize, also the layers that it skips silently: falcon's linear layers, fused experts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import nn

from peftbench.errors import UserError
from peftbench.models import head, layer_code, stored
from peftbench.models.precision import Precision
from peftbench.models.storage import is_packed, parts

_STATE = "peftbench_quant_state"
"""Attribute of fused experts that were quantized while they were loaded: the state of their quantization."""
LINEAR = ("FalconLinear",)
"""Subclasses of ``nn.Linear`` that also compute x W^T + b; in 16 bits, falcon's rounds once more before adding b."""


_LAYERS = ("Linear4bit", "Linear8bitLt")
"""bitsandbytes' quantized layers."""
_GROUP = 32
"""Weights that share a scale and an offset in ``torchao-int4``."""
_BLOCK = 16
"""Of this both sides of a matrix must be multiples in ``torchao-nvfp4``, by torchao; so many weights share a scale."""


def settings(precision: Precision, double_quantization: bool) -> dict[str, Any]:
    """Return the arguments with which transformers quantizes while loading; none for what is stored quantized."""
    if precision.name == stored.NAME:
        return {}
    return {"quantization_config": config(precision, double_quantization)}


def config(precision: Precision, double_quantization: bool) -> Any:
    """Return the config with which transformers quantizes linear layers while loading.

    Args:
        precision: a quantized precision.
        double_quantization: for 4 bits of bitsandbytes, whether quantization constants are quantized too.
    """
    from transformers import BitsAndBytesConfig

    if precision.package == "torchao":
        return _torchao(precision)
    if precision.quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=precision.quantization,
        bnb_4bit_use_double_quant=double_quantization,
        bnb_4bit_compute_dtype=getattr(torch, precision.compute),
    )


def _torchao(precision: Precision) -> Any:
    """Return the ``TorchAoConfig`` of a precision.

    All quantize weights only: torchao dequantizes them before it multiplies, so that gradients flow to the activations.
    Its packed layouts of 4-bit integers run on GPUs only and have no gradient; so those codes take 8 bits each. Two
    4-bit floats share a byte.
    """
    from torchao import quantization
    from torchao.prototype.mx_formats import NVFP4WeightOnlyConfig
    from torchao.quantization.granularity import PerGroup
    from transformers import TorchAoConfig

    made = {
        "torchao-int8": lambda: quantization.Int8WeightOnlyConfig(),
        "torchao-float8": lambda: quantization.Float8WeightOnlyConfig(),
        "torchao-int4": lambda: quantization.IntxWeightOnlyConfig(torch.int4, PerGroup(_GROUP)),  # type: ignore[attr-defined]
        "torchao-nvfp4": lambda: NVFP4WeightOnlyConfig(),
    }
    return TorchAoConfig(made[precision.quantization or ""]())


def dequantize(model: Any, dtype: torch.dtype) -> Any:
    """Return a quantized model with the weights that its codes mean, of a dtype, as if it never had been quantized."""
    if model.config.quantization_config.quant_method != "torchao":
        return model.dequantize(dtype=dtype).to(dtype)
    for module in model.modules():  # transformers has no ``dequantize`` for torchao
        for name, parameter in list(module.named_parameters(recurse=False)):
            if is_packed(parameter):
                setattr(module, name, nn.Parameter(parameter.dequantize(), requires_grad=False))
    model.hf_quantizer.remove_quantization_config(model)
    return model.to(dtype)


def set_compute(config: Any, precision: Precision) -> bool:
    """Let a base model that is stored in 4 bits be multiplied in the dtype of the precision, not of who stored it.

    Args:
        config: the base model's transformers config, which is changed.
        precision: the precision it is loaded at.

    Returns:
        Whether the config was changed.
    """
    found = stored.scheme(config)
    if found is None or found.four_bit_type is None:
        return False
    config.quantization_config = {**found.settings, "bnb_4bit_compute_dtype": precision.compute}
    return True


def of_config(config: Any) -> Any:
    """Return transformers' quantization config with which a base model is stored; None if its config has none."""
    from transformers.quantizers import AutoQuantizationConfig

    found = stored.scheme(config)
    return None if found is None else AutoQuantizationConfig.from_dict(dict(found.settings))


def check_stored(model: nn.Module, contents: stored.Contents) -> None:
    """Check that the weights that a base model's files store quantized are so in memory, to the byte.

    Args:
        model: the loaded model.
        contents: what is in its files.

    Raises:
        UserError: if transformers has dequantized or left out some.
    """
    plain = [n for n, m in model.named_modules() if type(m).__name__ in _LAYERS and m.weight.is_floating_point()]  # type: ignore[union-attr, operator]
    if plain:
        raise UserError(
            f"the files store {plain[0]} unquantized, which their config says is quantized ({len(plain)} such layers)"
        )
    own = [parts(p)[0] for p in model.parameters() if is_packed(p)]
    held = sum(p.numel() * p.element_size() for p in own)
    expected = sum(math.prod(each.shape) for each in contents.packed.values())
    if (len(own), held) != (len(contents.packed), expected) or not own:
        raise UserError(
            f"the files have {len(contents.packed)} quantized weights ({expected:,} bytes), but after loading "
            f"{len(own)} ({held:,} bytes) are quantized: transformers dequantized or left out some"
        )


@contextmanager
def every_linear_layer(precision: Precision) -> Iterator[None]:
    """Within the context, let transformers quantize exactly the linear layers that it can.

    These include subclasses of ``nn.Linear`` that compute the same. Layers whose weights are read or clamped by the
    model's code stay as they are: gemma3n's coefficients, routers of longcat_flash.

    transformers replaces a module only if ``type(module) is nn.Linear``. Before it checks, the class of these modules
    is set to ``nn.Linear``; names and weights stay the same. For torchao it asks before which modules it must leave.
    """
    from transformers import integrations
    from transformers.quantizers.quantizer_torchao import TorchAoHfQuantizer

    replace, skipped = integrations.replace_with_bnb_linear, TorchAoHfQuantizer.get_modules_to_not_convert

    def replace_all(model: nn.Module, *given: Any, **named: Any) -> Any:
        kept = _prepared(model)
        if kept:
            named["modules_to_not_convert"] = [*(named.get("modules_to_not_convert") or ()), *kept]
        return replace(model, *given, **named)

    def skip(model: nn.Module, *given: Any, **named: Any) -> list[str]:
        uneven = [f"{path}." for path, module in model.named_modules() if why_ungrouped(module, precision)]
        return [*skipped(model, *given, **named), *_prepared(model), *uneven]

    with (
        mock.patch.object(integrations, "replace_with_bnb_linear", replace_all),
        mock.patch.object(TorchAoHfQuantizer, "get_modules_to_not_convert", staticmethod(skip)),
    ):
        yield


@contextmanager
def experts_as_loaded(precision: Precision, double_quantization: bool) -> Iterator[None]:
    """Within the context, let transformers quantize fused experts to 4 bits as it reads them, one tensor after another.

    The model keeps their codes as plain parameters until ``quantize_experts`` is called, so a model of many experts
    never takes the memory of its 16-bit weights.
    """
    if precision.quantization not in ("nf4", "fp4"):
        yield
        return
    from bitsandbytes import functional
    from transformers.integrations import bitsandbytes as integration
    from transformers.quantizers.quantizer_bnb_4bit import Bnb4BitHfQuantizer

    needs, convert = Bnb4BitHfQuantizer.param_needs_quantization, integration.Bnb4bitQuantize.convert

    def needs_or_fused(quantizer: Any, model: nn.Module, name: str, **named: Any) -> bool:
        return bool(needs(quantizer, model, name, **named)) or _is_fused_in(model, name)

    def quantized(operation: Any, found: Any, *given: Any, model: Any = None, **named: Any) -> Any:
        if not all(_is_fused_in(model, name) for name in found):
            return convert(operation, found, *given, model=model, **named)
        made = {}
        for name in list(found):
            value = found.pop(name)
            codes, state = functional.quantize_4bit(
                value[0] if isinstance(value, list) else value,
                compress_statistics=double_quantization,
                quant_type=precision.quantization,
            )
            made[name] = nn.Parameter(codes, requires_grad=False)
            setattr(made[name], _STATE, state)
        return made

    with (
        mock.patch.object(Bnb4BitHfQuantizer, "param_needs_quantization", needs_or_fused),
        mock.patch.object(integration.Bnb4bitQuantize, "convert", quantized),
    ):
        yield


def _is_fused_in(model: nn.Module, name: str) -> bool:
    """Return whether a name in a model is that of fused experts."""
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    parameter = module._parameters.get(own)
    return parameter is not None and is_fused(module, parameter)


def why_ungrouped(module: nn.Module, precision: Precision) -> str:
    """Return why a linear layer cannot be divided into the groups that share a scale, as a clause; empty if it can."""
    if not isinstance(module, nn.Linear):
        return ""
    if precision.quantization == "torchao-int4" and module.in_features % _GROUP:
        return f"whose inputs of {module.in_features} are no multiple of {_GROUP}, which share a scale"
    if precision.quantization == "torchao-nvfp4" and (module.in_features % _BLOCK or module.out_features % _BLOCK):
        sides = f"{module.out_features} outputs and {module.in_features} inputs"
        return f"whose {sides} are not both multiples of {_BLOCK}, as torchao's NVFP4 needs"
    return ""


def _prepared(model: nn.Module) -> list[str]:
    """Make a model's linear layers plain ones; return the names of those that must not be quantized."""
    kept = head.modules(model)  # it trains
    for path, module in model.named_modules():
        if type(module).__name__ in LINEAR:
            module.__class__ = nn.Linear
        unpackable = layer_code.unpackable_weights(module)
        kept += [f"{path}.{n}" for n, m in module.named_children() if isinstance(m, nn.Linear) and n in unpackable]
    return kept


def quantize_experts(model: nn.Module, precision: Precision, double_quantization: bool) -> None:
    """Store fused experts in 4 bits: parameters of shape (experts, out, in) or (experts, in, out), as in mixtral.

    bitsandbytes stores the codes and dequantizes the matrices to the precision's compute dtype when a forward pass
    reads them; gradients flow to the activations they are multiplied with. Block size and double quantization are those
    of the linear layers. Costs and limits:

    - Autograd saves the dequantized 16-bit matrices of every layer for the backward pass, counted as activations, so a
      step's peak can exceed that of bf16. With gradient checkpointing, those of one layer exist at a time.
    - They are quantized as they are loaded (``experts_as_loaded``), a tensor of all experts of a layer at a time.
    - They cannot be adapted by LoRA. On a parameter that already has a parametrization, peft 0.21 adds its update once
      more with every forward pass, and torch's cache gives the inner of two updates no gradient. ``all-linear`` skips
      them, since peft finds no parameter of that name; the row's ``adapted_share`` shows it.
    - bitsandbytes has no int8 counterpart, and torchao quantizes linear layers only, so such a base model is refused in
      their precisions.

    Args:
        model: the loaded base model.
        precision: a 4-bit precision; others leave the model unchanged.
        double_quantization: whether quantization constants are quantized too.
    """
    if precision.quantization not in ("nf4", "fp4"):
        return
    from bitsandbytes.nn import parametrize

    for module in list(model.modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            made = getattr(parameter, _STATE, None)
            if made is not None or is_fused(module, parameter):
                with _known(parametrize.F, parameter.data, made) if made is not None else nullcontext():
                    parametrize.replace_parameter_4bit(
                        module, name, compress_statistics=double_quantization, quant_type=precision.quantization
                    )
                stored = module.parametrizations[name]  # type: ignore[index,union-attr]
                state = stored[0].quant_state  # type: ignore[index,union-attr]
                state.dtype = getattr(torch, precision.compute)  # dtype of the dequantized matrices
                stored.original.quant_state = state  # type: ignore[union-attr]


@contextmanager
def _known(functional: Any, codes: torch.Tensor, state: Any) -> Iterator[None]:
    """Within the context, let bitsandbytes take codes and their state as those of the weight that it quantizes."""
    with mock.patch.object(functional, "quantize_4bit", return_value=(codes, state)):
        yield


def is_fused(module: nn.Module, parameter: torch.Tensor) -> bool:
    """Return whether a parameter of a module holds the weight matrices of several experts."""
    convolution = type(module).__name__.startswith("Conv")
    return parameter.ndim == 3 and min(parameter.shape[1:]) > 1 and not convolution and parameter.is_floating_point()
