"""Bases of thirteen families: some 100 thousand random parameters in three layers, the tokenizer of ``tiny_base``.

Widths are multiples of 64, a block of 4-bit quantization. Heads share keys and values wherever the family can do that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from tests.support import tiny_base

TOKENS, LAYERS, WIDTH, HEADS, KEY_VALUE_HEADS, FEED_FORWARD, CONTEXT = 320, 3, 64, 4, 2, 128, 128


def _config(kind: str, **settings: Any) -> Any:
    """Return a configuration of three layers; settings come on top of, or in place of, the common ones."""
    common = {
        "vocab_size": TOKENS,
        "hidden_size": WIDTH,
        "intermediate_size": FEED_FORWARD,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_VALUE_HEADS,
        "max_position_embeddings": CONTEXT,
        "initializer_range": 0.2,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    merged = {name: value for name, value in (common | settings).items() if value is not None}
    return getattr(transformers, kind)(**merged)


_ONE_PER_HEAD = {"num_key_value_heads": None}
"""For families without shared keys and values."""

CONFIGS: Mapping[str, Callable[..., Any]] = {
    "llama": partial(_config, "LlamaConfig"),
    "mistral": partial(_config, "MistralConfig", sliding_window=16),
    "mixtral": partial(_config, "MixtralConfig", num_local_experts=4, num_experts_per_tok=2),
    "qwen3": partial(_config, "Qwen3Config", head_dim=32),
    "gemma3": partial(
        _config,
        "Gemma3TextConfig",
        head_dim=32,
        query_pre_attn_scalar=24,
        sliding_window=16,
        layer_types=["sliding_attention", "sliding_attention", "full_attention"],
    ),
    "phi": partial(_config, "PhiConfig", resid_pdrop=0.0, embd_pdrop=0.0),
    "gpt2": partial(
        _config,
        "GPT2Config",
        intermediate_size=None,
        n_inner=FEED_FORWARD,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **_ONE_PER_HEAD,
    ),
    "gpt_neox": partial(_config, "GPTNeoXConfig", **_ONE_PER_HEAD),
    "gptj": partial(
        _config,
        "GPTJConfig",
        intermediate_size=None,
        n_inner=FEED_FORWARD,
        rotary_dim=8,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        **_ONE_PER_HEAD,
    ),
    "opt": partial(
        _config,
        "OPTConfig",
        intermediate_size=None,
        ffn_dim=FEED_FORWARD,
        word_embed_proj_dim=WIDTH,
        dropout=0.0,
        init_std=0.2,
        **_ONE_PER_HEAD,
    ),
    "falcon": partial(
        _config,
        "FalconConfig",
        intermediate_size=None,
        num_key_value_heads=None,
        ffn_hidden_size=FEED_FORWARD,
        new_decoder_architecture=True,
        num_kv_heads=KEY_VALUE_HEADS,
        max_position_embeddings=CONTEXT,
    ),
    "bloom": partial(_config, "BloomConfig", intermediate_size=None, hidden_dropout=0.0, **_ONE_PER_HEAD),
    "glm4": partial(_config, "Glm4Config", head_dim=16),
}
"""Family to what makes its configuration; keyword arguments change it."""


def make(folder: Path, family: str, **changes: Any) -> Path:
    """Write a model of a family, its weights the same in every run, with its tokenizer; changes go to its config."""
    tiny_base.tokenizer().save_pretrained(folder)
    build(family, **changes).save_pretrained(folder)
    return folder


def build(family: str, **changes: Any) -> Any:
    """Return a model of a family in memory."""
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(CONFIGS[family](**changes)).eval()
