"""liger's fused linear cross-entropy: the output layer and the loss as one operator (``train.logits: liger``).

Logits of some positions at a time exist within the operator's forward pass, which computes the gradients at once, so
that nothing of them is kept for the backward pass.
"""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import nn

from peftbench.errors import Unsupported


def check(base: Any, layer: nn.Module) -> None:
    """Refuse an output layer that the operator cannot stand for: it reads a weight and a bias alone.

    Args:
        base: the base model.
        layer: its output layer.

    Raises:
        Unsupported: if the layer computes more than a product with them, or liger is not installed.
    """
    plain = type(layer) is nn.Linear and type(layer.weight.data) is torch.Tensor and layer.weight.is_floating_point()
    if not plain or hasattr(layer, "parametrizations"):
        kind = f"{type(layer).__module__.partition('.')[0]}'s {type(layer).__name__}"
        raise Unsupported(
            f"logits: liger reads the weight of an output layer, and that of {type(base).__name__} is {kind}, which "
            "computes more; use logits: chunked"
        )
    _operator()


def losses(base: Any, layer: Any, hidden: torch.Tensor, targets: torch.Tensor, each: bool) -> torch.Tensor:
    """Return the cross-entropy of hidden states, (n, d): its sum, a scalar in nats, or with ``each`` (n,).

    Args:
        base: the base model, whose config may have a soft cap of logits.
        layer: its output layer.
        hidden: the decoder's output at the positions that bear loss.
        targets: (n,) token ids.
        each: whether to return the loss of each position, for which the backward pass makes logits again.
    """
    found: torch.Tensor = _operator()(
        hidden,
        layer.weight,
        targets,
        bias=layer.bias,
        reduction="none" if each else "sum",
        softcap=getattr(base.config.get_text_config(), "final_logit_softcapping", None),
        accum_dtype=torch.float32,  # else a gradient in 16 bits adds up chunks
    )
    return found


def _operator() -> Any:
    try:
        module = importlib.import_module("liger_kernel.transformers.functional")
    except ImportError as error:
        raise Unsupported(f"logits: liger: {error}; pip install liger-kernel, or use logits: chunked") from error
    return module.liger_fused_linear_cross_entropy
