"""Prompt tuning: trainable embeddings before the input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import PromptTuningConfig, get_peft_model
from torch import nn

_INITIALIZATIONS = {"random": "RANDOM", "vocabulary": "SAMPLE_VOCAB"}


def attach(model: nn.Module, rank: int, options: Mapping[str, Any]) -> nn.Module:
    """Put ``rank`` trainable embeddings of shape (rank, d) before every input's embeddings.

    Args:
        model: the frozen base.
        rank: number of virtual tokens.
        options: ``initialization``: ``vocabulary`` copies rows of the embedding matrix, sampled uniformly (the paper
            samples among the 5,000 commonest tokens); ``random`` draws them standard normal (the paper: uniform in
            [-0.5, 0.5]).

    Returns:
        The base wrapped by peft; only the embeddings of the virtual tokens require gradients.

    References:
        Lester et al. 2021, arXiv:2104.08691, sections 2 and 3.2.
    """
    config = PromptTuningConfig(
        num_virtual_tokens=rank,
        prompt_tuning_init=_INITIALIZATIONS[options["initialization"]],
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)
