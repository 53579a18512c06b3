"""LLaMA-Adapter: zero-initialised gated attention to trainable prompts in the topmost layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peft import AdaptionPromptConfig, get_peft_model
from torch import nn

from peftbench.errors import Unsupported

_MODEL_TYPES = ("llama", "mistral", "gpt2")
_UNADAPTED_LAYERS = 2


def attach(model: Any, rank: int, options: Mapping[str, Any]) -> nn.Module:
    """Let the topmost layers attend to ``rank`` trainable prompts through a gate that starts at zero.

    In each adapted layer the attention output becomes ``attention(x) + g softmax(q k_p^T / sqrt(d)) v_p``, with the
    keys and values k_p, v_p computed by the layer's own projections from a prompt of shape (rank, d), and a gate g
    that starts at zero, so that the first forward pass equals the base model's.

    Args:
        model: the frozen base; llama, mistral or gpt2, the families that peft covers.
        rank: prompt length.
        options: ``layers``: how many topmost layers are adapted; default all but two, as the paper's 30 of 32.

    Returns:
        The base wrapped by peft; only prompts and gates require gradients.

    Raises:
        Unsupported: if peft does not cover the model's family.

    References:
        Zhang et al. 2023, arXiv:2303.16199, section 3. Departs from it as peft does: one gate per layer instead of
        one per head, and no tanh on the gate.
    """
    if model.config.model_type not in _MODEL_TYPES:
        allowed = ", ".join(_MODEL_TYPES)
        raise Unsupported(f"llama_adapter: model type {model.config.model_type!r} is not covered by peft ({allowed})")
    depth = model.config.num_hidden_layers
    layers = max(1, depth - _UNADAPTED_LAYERS) if options["layers"] is None else options["layers"]
    if layers > depth:
        raise Unsupported(f"llama_adapter: layers={layers}, but the base has only {depth}")
    config = AdaptionPromptConfig(adapter_len=rank, adapter_layers=layers, task_type="CAUSAL_LM")
    return get_peft_model(model, config)
