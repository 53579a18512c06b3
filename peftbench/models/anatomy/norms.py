"""The norms of a model's decoder layers: their kind by what they compute, their eps, where they stand."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from peftbench.models.anatomy import blocks
from peftbench.models.anatomy.blocks import Block
from peftbench.models.anatomy.order import Order
from peftbench.models.anatomy.record import Normalization

_EPS = ("eps", "variance_epsilon", "epsilon", "layer_norm_eps", "norm_eps")
_SHIFT, _SCALE = 3.0, 8.0


def find(layers: Sequence[Block], order: Order | None, width: int | None) -> Normalization:
    """Return the norms of decoder layers.

    Args:
        layers: the decoder layers in parts.
        order: how the modules of a layer follow on each other; None if that is not known.
        width: of the residual stream, for norms without weights.
    """
    each = [module for layer in layers for module in layer.norms]
    first = {_signature(module): module for module in each}
    return Normalization(
        same(kind(module, width) for module in first.values()),
        same(_eps(module) for module in each),
        order.placement if order else None,
        any(_of_queries(layer.attention) for layer in layers if layer.attention is not None),
    )


def same(values: Iterable[Any]) -> Any:
    """Return what all values are; None if they differ or there are none."""
    found = list(dict.fromkeys(values))
    return found[0] if len(found) == 1 else None


def _signature(module: nn.Module) -> tuple[str, str]:
    return type(module).__name__, module.extra_repr()


@torch.no_grad()
def kind(module: nn.Module, width: int | None = None) -> str | None:
    """Return what a norm computes: LayerNorm's result does not change when a constant is added to its input, RMSNorm's
    does; neither changes with the input's scale. None for anything else.
    """
    try:
        made = copy.deepcopy(module).to_empty(device="cpu").float().eval()
        own = next((p.shape[-1] for p in made.parameters() if p.ndim), None) or _stated(made) or width
        for name, parameter in made.named_parameters():
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        x = torch.linspace(-1.0, 2.0, int(own or 0)).square().reshape(1, 1, -1) * 50.0
        plain, shifted, scaled = (made(each) for each in (x, x + _SHIFT * x.mean(), x * _SCALE))
    except Exception:  # a norm that needs more than its input, or is none
        return None
    if not torch.allclose(plain, scaled, atol=1e-3) or torch.allclose(plain, x, atol=1e-3):
        return None
    return "LayerNorm" if torch.allclose(plain, shifted, atol=1e-3) else "RMSNorm"


def _stated(module: nn.Module) -> int | None:
    shape = getattr(module, "normalized_shape", None)
    return int(shape[-1]) if isinstance(shape, Sequence) and shape else None


def _eps(module: nn.Module) -> float | None:
    found = (getattr(module, name, None) for name in _EPS)
    return next((float(value) for value in found if isinstance(value, float | int)), None)


def _of_queries(attention: nn.Module) -> bool:
    """Return whether an attention has norms for queries and keys."""
    named = [name.lower() for name, module in attention.named_modules() if name and blocks.is_norm(name, module)]
    tails = [name.rpartition(".")[2] for name in named]
    return any(t.startswith(("q_norm", "q_layer", "query_")) for t in tails) and any(
        t.startswith(("k_norm", "k_layer", "key_")) for t in tails
    )
