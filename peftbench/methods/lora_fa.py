"""LoRA-FA: A is frozen, and B takes the step that is nearest to that of full fine-tuning."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from peft.tuners.lora import LoraLayer
from torch import nn

from peftbench.errors import Unsupported
from peftbench.models import own_weights
from peftbench.training import frozen_factor

OPTION = "lora_fa"


def freeze(tuned: Any) -> None:
    """Freeze A of every adapted layer, and mark B for the correction of its gradient (``training.frozen_factor``).

    A layer keeps its input for the gradient of A alone: with A frozen it keeps A's output instead, of rank r. What
    other operations keep, as attention its output, they keep still.

    Args:
        tuned: the model with LoRA attached.

    Raises:
        Unsupported: if embeddings are adapted, whose A keeps no input, or fused experts, each with its own A.

    References:
        Zhang et al. 2023, arXiv:2308.03303, section 3.
    """
    for a, b, scale in pairs(tuned, OPTION):
        a.requires_grad_(False)
        own_weights.mark(a)
        frozen_factor.mark(b, a, scale)


def pairs(tuned: Any, option: str) -> Iterator[tuple[nn.Parameter, nn.Parameter, float]]:
    """Yield A, B and s of each adapted layer.

    Args:
        tuned: the model with LoRA attached.
        option: what they are needed for, for the message.

    Raises:
        Unsupported: if embeddings or fused experts are adapted.
    """
    if any("lora_embedding_" in name for name, p in tuned.named_parameters() if p.requires_grad):
        raise Unsupported(f"{option} has no rule for A and B of an embedding")
    for module in tuned.modules():
        if not isinstance(module, LoraLayer):
            continue
        if hasattr(module, "parameter_name"):
            raise Unsupported(f"{option} has no rule for fused experts ({module.parameter_name}): each has its own A")
        for name in module.lora_A:
            yield module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name]
