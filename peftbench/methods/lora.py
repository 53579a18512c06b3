"""LoRA, and QLoRA, which is LoRA on all linear layers of a 4-bit base."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import LoraConfig, get_peft_model
from torch import nn


def attach(model: nn.Module, rank: int, options: Mapping[str, Any]) -> nn.Module:
    """Add a trainable low-rank update to the target modules.

    Each frozen weight W of shape (out, in) acts as W + (alpha / r) B A, with A of shape (r, in) drawn Kaiming-uniform
    and B of shape (out, r) zero, so that the first forward pass equals the base model's.

    Args:
        model: the frozen base.
        rank: r.
        options: ``alpha`` (default 2r), ``dropout``, ``target_modules``.

    Returns:
        The base wrapped by peft; only A and B require gradients.

    References:
        Hu et al. 2021, arXiv:2106.09685, section 4.1; Dettmers et al. 2023, arXiv:2305.14314, section 4 (all linear
        layers). Departs from the former: all linear layers by default where the paper adapts attention only.
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=options["alpha"],
        lora_dropout=options["dropout"],
        target_modules=options["target_modules"],
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)
