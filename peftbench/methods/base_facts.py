"""What a base model's config says about methods that it cannot take, before any weight is loaded. No torch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from peftbench.errors import Unsupported
from peftbench.methods import method_of
from peftbench.models import stored
from peftbench.models.precision import PRECISIONS
from peftbench.records import Trial

_EMBEDDING_PROMPTS = ("PROMPT_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT")
"""Tuners of peft that give the base embeddings, as prompt tuning does."""
_STATE = re.compile(r"linear|mamba|conv|recurr|ssm|delta|hybrid")
"""Part of the name of a kind of layers whose cache is a state."""
_WITHOUT_ATTENTION = ("mamba", "mamba2", "falcon_mamba", "xlstm")
_RECURRENT = (
    *_WITHOUT_ATTENTION,
    *("bailing_hybrid", "bamba", "falcon_h1", "granitemoehybrid", "inkling2_text", "inkling_text", "jamba"),
    *("kimi_linear", "lfm2", "lfm2_moe", "lfm3", "minimax", "nemotron_h", "olmo_hybrid", "qwen3_5", "qwen3_5_moe"),
    *("qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "qwen4_exp", "qwen4_exp_text", "recurrent_gemma", "rwkv"),
    *("zamba", "zamba2"),
)
"""``model_type`` of families with layers whose cache is a state: recurrent layers, linear attention, convolutions."""
_PER_LAYER_INPUTS = ("gemma3n", "gemma3n_text", "gemma4", "gemma4_text")
"""``model_type`` of families with inputs of each layer computed from token ids, unless their width is set to 0."""
_RESCALING = ("rwkv",)
"""``model_type`` of families that scale weights in place unless ``rescale_every`` is set to 0."""
_SHARED = ("gemma3n", "gemma3n_text")
"""``model_type`` of families whose topmost layers share keys and values unless their number is set to 0."""


def check(trial: Trial, config: Any) -> None:
    """Check that a base model can take a trial's method, as far as its config says.

    Args:
        trial: gives the method.
        config: the base model's transformers config, or the mapping read from its ``config.json``.

    Raises:
        Unsupported: if it cannot, with the reason.
    """
    method = method_of(trial.method, trial.options)
    kind = method.variant or method.name.upper()
    reason = None
    if kind in ("PREFIX_TUNING", "CARTRIDGE"):
        reason = _why_no_prefix(config)
    elif kind in _EMBEDDING_PROMPTS:
        reason = _why_no_embeddings(config)
    elif kind in ("ADAPTER", "LLAMA_ADAPTER") and _value(config, "model_type") in _WITHOUT_ATTENTION:
        reason = f"the layers of {_value(config, 'model_type')} have no attention"
    reason = stored.why_other_precision(config, trial.precision, trial.options) or reason
    if reason is None and PRECISIONS[trial.precision].quantization:
        reason = _why_not_packed(config)
    if reason is not None:
        raise Unsupported(f"{method.name}{f' {method.variant}' if method.variant else ''}: {reason}")


def _why_no_prefix(config: Any) -> str | None:
    """Return why a prefix of keys and values cannot precede the input of every layer; None if it can."""
    family, kinds = _value(config, "model_type"), _value(config, "layer_types") or ()
    if _value(config, "kv_lora_rank"):
        return f"the cache of {family} holds latent vectors instead of keys and values per head, which a prefix needs"
    states = sorted({str(kind) for kind in kinds if _STATE.search(str(kind))})
    if family in _RECURRENT or states:
        named = f" ({', '.join(states)})" if states else ""
        return f"some layers of {family} keep a state{named} instead of keys and values, which a prefix needs"
    shared = _value(config, "num_kv_shared_layers")
    if shared or (shared is None and family in _SHARED):
        return f"the topmost layers of {family} use the keys and values of others, so that a prefix never reaches them"
    return None


def _why_no_embeddings(config: Any) -> str | None:
    """Return why embeddings cannot take the place of token ids; None if they can."""
    family, width = _value(config, "model_type"), _value(config, "hidden_size_per_layer_input")
    if width or (width is None and family in _PER_LAYER_INPUTS):
        return (
            f"each layer of {family} has an input of its own computed from token ids, which virtual tokens do not have"
        )
    return None


def _why_not_packed(config: Any) -> str | None:
    """Return why a base model's weights cannot be quantized; None if nothing is known against it."""
    every = _value(config, "rescale_every")
    if every or (every is None and _value(config, "model_type") in _RESCALING):
        return (
            f"{_value(config, 'model_type')} scales its weights in place whenever it changes between training and "
            "evaluation (rescale_every in its config), which quantized weights do not survive"
        )
    return None


def _value(config: Any, name: str) -> Any:
    """Return a value of the text part of a config; None if it does not state it."""
    if isinstance(config, Mapping):
        text = config.get("text_config")
        return (text if isinstance(text, Mapping) and name != "model_type" else config).get(name)
    text = config.get_text_config() if name != "model_type" else config
    try:
        return getattr(text, name, None)
    except RuntimeError:  # the layers differ in it
        return None
