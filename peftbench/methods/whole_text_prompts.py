"""Virtual tokens before whole texts that a head reads: embeddings, and keys and values in encoders.

peft prepends both for models that predict tokens. For a head it does not say which text of a pair a token belongs to,
and its prefix is a cache, which encoders either refuse or attend to under a mask without it.
"""

from __future__ import annotations

import copy
import sys
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from peftbench.errors import Unsupported
from peftbench.methods.gated_prompts import reads_table
from peftbench.models import head
from peftbench.models.layers import decoder_layers_for

CACHES = ("PREFIX_TUNING", "CARTRIDGE")
"""Tuners of peft whose virtual tokens are keys and values."""
_POOLING, _OVER_ALL = ("classifier_pooling", "clf_pooling"), ("mean", "late")
"""Keys of configs that say what a head reads (ModernBERT, EuroBERT), and values by which it is a mean over tokens."""
NAME = "peftbench_prefix"
"""Our entry in transformers' table of attention functions."""


def prepare(tuned: Any) -> Any:
    """Let a model that peft gave virtual tokens, with a head for whole texts, be called with pairs of texts, too.

    Args:
        tuned: a peft model; one without a head or without virtual tokens is returned as it is.

    Raises:
        Unsupported: if the base model is an encoder and attention cannot be given keys and values.
    """
    placed = head.placed_in(tuned)
    if placed is None or not tuned.active_peft_config.is_prompt_learning:
        return tuned
    base = tuned.get_base_model()
    if not placed.skips:
        raise Unsupported(
            f"virtual tokens: the head of {type(base).__name__} reads the first token, which would be a virtual one, "
            "and its layers are not known"
        )
    if tuned.active_peft_config.peft_type.value in CACHES:
        if placed.reads_last:
            return tuned  # peft's cache
        attentions = [_attention(base, layer) for layer in decoder_layers_for("prefix_tuning", base)]
        for attention in attentions:
            _join(attention)
        tuned.forward = partial(_with_keys_and_values, tuned, attentions)
    else:
        pooling = next((getattr(base.config, key, None) for key in _POOLING if hasattr(base.config, key)), None)
        if not placed.reads_last and pooling in _OVER_ALL:
            raise Unsupported(
                f"virtual tokens: the head of {type(base).__name__} reads the mean over all tokens ({pooling} in its "
                "config), the virtual ones included"
            )
        tuned.forward = partial(_with_embeddings, tuned)
    return tuned


def _with_embeddings(
    tuned: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    token_type_ids: torch.Tensor | None = None,
    **more: Any,
) -> Any:
    """Run the base model on the virtual tokens' embeddings and the texts'; virtual tokens belong to the first text."""
    rows = input_ids.shape[0]
    texts = tuned.word_embeddings(input_ids)
    prompts = tuned.get_prompt(batch_size=rows, task_ids=more.pop("task_ids", None)).to(texts.dtype)
    before = prompts.shape[1]
    if token_type_ids is not None:
        more["token_type_ids"] = functional.pad(token_type_ids, (before, 0))
    mask = functional.pad(attention_mask, (before, 0), value=1)
    return tuned.get_base_model()(inputs_embeds=torch.cat((prompts, texts), dim=1), attention_mask=mask, **more)


def _with_keys_and_values(tuned: Any, attentions: list[Any], *given: Any, **settings: Any) -> Any:
    """Run the base model with each layer's prefix at hand; the text's positions are those without a prefix."""
    cache = tuned.get_prompt(batch_size=1)
    for attention, layer in zip(attentions, cache.layers, strict=True):
        attention.peftbench_prefix = layer.keys, layer.values
    try:
        return tuned.get_base_model()(*given, **settings)
    finally:
        for attention in attentions:
            attention.peftbench_prefix = None


def _attention(base: Any, layer: nn.Module) -> Any:
    """Return the module in an encoder layer that calls one of transformers' attention functions.

    Raises:
        Unsupported: if there is not exactly one.
    """
    found = [module for module in layer.modules() if reads_table(module)]
    if len(found) != 1:
        raise Unsupported(
            f"prefix_tuning: {type(base).__name__} reads in both directions and takes no cache, and its layers do not "
            "call one of transformers' attention functions, to which a prefix could be given"
        )
    return found[0]


def _join(attention: Any) -> None:
    """Let an attention module call our entry in the table while it has a prefix."""
    own = attention.config
    eager = getattr(sys.modules[type(attention).__module__], "eager_attention_forward", None)
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(own._attn_implementation, eager)
    ours = copy.deepcopy(own)
    ours._attn_implementation = NAME
    attention.peftbench_prefix = None
    attention.peftbench_attend = own, attend
    ALL_ATTENTION_FUNCTIONS.register(NAME, _attend)

    def before(module: Any, *_: Any) -> None:
        module.config = ours if module.peftbench_prefix is not None else own

    attention.register_forward_pre_hook(before)


def _attend(attention: Any, query: Any, key: Any, value: Any, attention_mask: Any, **settings: Any) -> tuple[Any, Any]:
    """Attend to the prefix and the text. Shapes: query, key, value (b, h, t, d_h), mask (b, 1, t, t) or None."""
    own, attend = attention.peftbench_attend
    attention.config = own
    rows = (key.shape[0], -1, -1, -1)
    before = [x.to(key.dtype).expand(rows) for x in attention.peftbench_prefix]
    key, value = (torch.cat(both, dim=2) for both in zip(before, (key, value), strict=True))
    if attention_mask is not None:  # additive, or true where it may be read
        seen = attention_mask.dtype is torch.bool
        attention_mask = functional.pad(attention_mask, (before[0].shape[2], 0), value=seen)
    return attend(attention, query, key, value, attention_mask, **settings)
