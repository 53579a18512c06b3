"""Prefix tuning: trainable keys and values before the input in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import PrefixTuningConfig, get_peft_model
from torch import nn


def attach(model: nn.Module, rank: int, options: Mapping[str, Any]) -> nn.Module:
    """Let every layer attend to ``rank`` trainable key and value vectors as if they stood before the input.

    Args:
        model: the frozen base.
        rank: number of virtual tokens p; p x layers x 2 x key-value width parameters.
        options: none.

    Returns:
        The base wrapped by peft; only the prefix requires gradients.

    References:
        Li & Liang 2021, arXiv:2101.00190, section 4. Departs from it: the prefix itself is trained, without the
        MLP that reparameterises it in section 4.3, and starts standard normal.
    """
    config = PrefixTuningConfig(num_virtual_tokens=rank, task_type="CAUSAL_LM")
    return get_peft_model(model, config)
