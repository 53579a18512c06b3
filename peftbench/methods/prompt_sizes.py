"""The sizes of a base model that peft's prompt and prefix tuning need and read from a config by a few names only."""

from __future__ import annotations

from typing import Any

from peftbench.models.layers import stated_depth, width

_HEADS = (
    *("num_attention_heads", "n_head", "num_heads", "n_heads", "attention_heads", "decoder_attention_heads"),
    "num_decoder_attention_heads",
)


def for_embeddings(model: Any) -> dict[str, int]:
    """Return the sizes for virtual tokens that are embeddings: as wide as the base's, in some families not its layers.

    Layers and heads do not matter to them, but peft asks for these too; a base that states none gets 1.
    """
    return {
        "token_dim": int(model.get_input_embeddings().weight.shape[1]),
        "num_layers": stated_depth(model.config) or 1,
        "num_attention_heads": _heads(model.config.get_text_config()) or 1,
    }


def for_keys_and_values(model: Any) -> dict[str, int]:
    """Return the sizes for virtual tokens that are keys and values; what a base does not state is left to peft."""
    text = model.config.get_text_config()
    found = {"token_dim": width(model), "num_layers": stated_depth(model.config), "num_attention_heads": _heads(text)}
    one_head = getattr(text, "multi_query", False) and not getattr(text, "new_decoder_architecture", True)
    if one_head and found["num_attention_heads"]:  # falcon: all heads share one key and value
        found |= {"token_dim": width(model) // found["num_attention_heads"], "num_attention_heads": 1}
    return {name: size for name, size in found.items() if size is not None}


def _heads(text: Any) -> int | None:
    for name in _HEADS:
        try:
            found = getattr(text, name, None)
        except RuntimeError:  # the layers have different numbers
            return None
        if isinstance(found, int):
            return found
    return None
