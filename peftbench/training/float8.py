"""Products of a base model's linear layers in 8-bit floats (``train.compute: fp8``), however its weights are stored.

Each product of a training step, forward and backward, has both factors rounded to e4m3 with a scale for each row or
column (torchao's recipe ``rowwise``), so that what a token gets does not depend on the others in its batch. Weights,
gradients and everything between layers keep their types. Scoring and validation multiply as without it.

References:
    Micikevicius et al. 2022, arXiv:2209.05433 (the formats); torchao's ``float8`` (the recipe).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from peftbench.errors import Unsupported
from peftbench.models import own_weights
from peftbench.models.layers import decoder_layers
from peftbench.models.quantization import is_fused
from peftbench.training import turns

FP8 = "fp8"
_SIDE = 16
"""Of this both sides of a matrix must be multiples: torch's 8-bit product needs it."""
_CAPABILITY = (8, 9)
"""The first GPUs that multiply 8-bit floats: Ada and Hopper."""


def use(model: nn.Module, compute: str, device: str) -> None:
    """Let the base model's linear layers multiply in 8-bit floats in training, as ``products`` finds them.

    Args:
        model: the base model with the method attached; parameters and modules stay the same objects.
        compute: ``fp8``; with anything else nothing is done.
        device: ``cpu`` or ``cuda``.

    Raises:
        Unsupported: as ``products``.
    """
    if compute != FP8:
        return
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    # a gradient of a weight sums over any number of tokens
    settings = replace(Float8LinearConfig.from_recipe_name("rowwise"), pad_inner_dim=True)
    for layer in products(model, device).values():
        converted = convert_to_float8_training(layer, config=settings)
        layer.forward = _Product(layer, converted)


class _Product:
    """The forward pass of a linear layer: in training by its converted twin, else its own."""

    def __init__(self, layer: Any, converted: Any) -> None:
        self.layer, self.converted, self.plain, self.used = layer, converted, layer.forward, False

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        if not self.layer.training:
            return self.plain(x)  # type: ignore[no-any-return]
        self.used = True
        kind = x.device.type
        x = x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x
        self.converted.weight, self.converted.bias = self.layer.weight, self.layer.bias
        with torch.autocast(kind, enabled=False):
            return self.converted(x)  # type: ignore[no-any-return]


@contextmanager
def used(model: nn.Module) -> Iterator[None]:
    """Check in training within the context that what a method puts around a layer calls the layer's own product.

    Raises:
        Unsupported: if it multiplies by weights that it has changed, so that the layer's product would stay as it was.
    """

    def check(name: str) -> Any:
        def after(module: Any, _: Any, __: Any) -> None:
            if module.training and not module.base_layer.forward.used:
                raise Unsupported(
                    f"compute: {FP8}: {type(module).__name__} multiplies by weights that it has changed, and not by "
                    f"the base model's layer ({name})"
                )

        return after

    around = {n: m for n, m in model.named_modules() if hasattr(m, "base_layer")}
    around = {n: m for n, m in around.items() if isinstance(getattr(m.base_layer, "forward", None), _Product)}
    hooks = [module.register_forward_hook(check(name)) for name, module in around.items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def products(model: nn.Module, device: str) -> dict[str, Any]:
    """Return the linear layers that multiply in 8-bit floats, by name.

    They are those of the decoder layers without what a method has added. Embeddings, head and the products within
    attention stay as they are.

    Args:
        model: the base model with the method attached.
        device: ``cpu`` or ``cuda``; asked for what it can if it is there.

    Raises:
        Unsupported: if the device cannot, or not every matrix of the decoder layers is such a layer.
    """
    _check_device(device)
    try:
        layers = decoder_layers(model)
    except LookupError as error:
        raise Unsupported(f"compute: {FP8}: {error}") from None
    found = {n: m for n, m in layers.named_modules() if type(m) is nn.Linear and not own_weights.frozen(m.weight)}
    frozen = {name: module for name, module in found.items() if not module.weight.requires_grad}
    # of full fine-tuning of a part, all are the base model's
    adds = bool(frozen) and turns.of(model) is None and not hasattr(model, "peftbench_partial")
    if adds:
        found = frozen  # the others are the method's
    if not found:
        raise Unsupported(f"compute: {FP8}: the decoder layers of {type(model).__name__} have no plain linear layers")
    _check_layers(layers, found, adds)
    return found


def _check_device(device: str) -> None:
    if device != "cuda" or not torch.cuda.is_available():
        return
    own = torch.cuda.get_device_capability()
    if own < _CAPABILITY:
        needed, has = (".".join(map(str, each)) for each in (_CAPABILITY, own))
        raise Unsupported(
            f"compute: {FP8} needs a GPU of compute capability {needed}; {torch.cuda.get_device_name()} has {has}"
        )


def _check_layers(layers: nn.Module, found: Mapping[str, Any], adds: bool) -> None:
    for name, module in layers.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            of_method = own_weights.frozen(parameter) or (adds and parameter.requires_grad)
            if is_fused(module, parameter) and not of_method:
                raise Unsupported(f"compute: {FP8}: the matrices of fused experts ({name}.{own}) have no such product")
    for name, module in found.items():
        if module.in_features % _SIDE or module.out_features % _SIDE:
            sides = f"{module.out_features} outputs and {module.in_features} inputs"
            raise Unsupported(f"compute: {FP8}: {name} has {sides}, which are not both multiples of {_SIDE}")
