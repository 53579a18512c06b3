"""A base model's width, number of parameters and context, read from its files without loading it. No torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_TEXT_PARTS = ("text_config", "language_config", "llm_config", "thinker_config")
_WIDTH = ("hidden_size", "n_embd", "d_model", "dim", "hidden_dim", "model_dim", "emb_dim")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
CONTEXT = ("max_position_embeddings", "n_positions")
"""Keys of the context length in a ``config.json``; transformers' config objects offer both as the first."""
AFTER_PADDING = (
    "camembert",
    "data2vec-text",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
"""``model_type`` of families whose first token has the position after the padding token's id."""
_TWO_MATRICES = (
    "gpt2",
    "gptj",
    "gpt_neo",
    "gpt_neox",
    "gpt_bigcode",
    "opt",
    "falcon",
    "bloom",
    "mpt",
    "phi",
    "codegen",
)
"""Model types whose feed-forward blocks have two matrices; the others have a gate too."""

_TIED = ("gpt2", "opt", "falcon", "bloom", "mpt")
"""Model types that tie output and input embeddings by default."""


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a ``config.json`` that describes the text model: of models for images and text, a part."""
    parts = (config.get(name) for name in _TEXT_PARTS)
    found = next((part for part in parts if isinstance(part, Mapping)), None)
    return config if found is None else text_config(found)


def width(config: Mapping[str, Any]) -> int | None:
    """Return the hidden size of the decoder layers; None if the config does not give it."""
    return _first(text_config(config), _WIDTH)


def has_experts(config: Mapping[str, Any]) -> bool:
    """Return whether the feed-forward blocks are mixtures of experts."""
    return (_first(text_config(config), _EXPERTS) or 0) > 1


def context(config: Mapping[str, Any]) -> int | None:
    """Return the context length in tokens; None if the config does not give it, or says that there is none (-1)."""
    text = text_config(config)
    return usable_context(_first(text, CONTEXT), text.get("model_type"), text.get("pad_token_id"))


def usable_context(positions: int | None, family: Any, padding: Any) -> int | None:
    """Return how many tokens fit into a table of positions; None if there is no such table.

    Args:
        positions: its number of rows, as the config states it.
        family: the config's ``model_type``.
        padding: the config's ``pad_token_id``; None for the default of the families that count from it, 1.
    """
    if not positions or positions <= 0:
        return None
    return positions - (padding if isinstance(padding, int) else 1) - 1 if family in AFTER_PADDING else positions


def parameters(folder: Path, config: Mapping[str, Any]) -> int | None:
    """Return about how many parameters a base model has, shared ones once; None if neither files nor config tell.

    The shapes in the headers of the weight files count. Without such files, and if the weights are stored packed, it
    is an estimate from the config: embeddings, attention and feed-forward blocks.
    """
    stored = None if config.get("quantization_config") else _stored(folder, text_config(config))
    return stored or _estimated(text_config(config))


def _stored(folder: Path, text: Mapping[str, Any]) -> int | None:
    shapes: dict[str, list[int]] = {}
    try:
        for name in _weight_files(folder):
            shapes.update(_shapes(folder / name))
    except (OSError, ValueError, TypeError, LookupError, AttributeError):  # reported by the code that loads the weights
        return None
    if _ties(text):
        shapes.pop("lm_head.weight", None)
    return sum(math.prod(shape) for shape in shapes.values()) or None


def _weight_files(folder: Path) -> list[str]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return ["model.safetensors"]
    return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))


def _shapes(path: Path) -> dict[str, list[int]]:
    """Return the shape of every tensor in a safetensors file."""
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return {name: each["shape"] for name, each in header.items() if name != "__metadata__"}


def _estimated(text: Mapping[str, Any]) -> int | None:
    hidden, vocabulary = width(text), text.get("vocab_size")
    layers, heads = _first(text, _LAYERS), _first(text, _HEADS)
    if not (hidden and layers and heads and isinstance(vocabulary, int)):
        return None
    kind = str(text.get("model_type"))
    inner = _first(text, ("intermediate_size", "ffn_dim", "n_inner", "decoder_ffn_dim")) or 4 * hidden
    head = _first(text, ("head_dim",)) or hidden // heads
    keys = 1 if text.get("multi_query") else _first(text, ("num_key_value_heads",)) or heads
    attention = 2 * hidden * head * (heads + keys)
    matrices = 2 if kind in _TWO_MATRICES else 3
    experts = _first(text, _EXPERTS) or 1
    width_of_expert = _first(text, ("moe_intermediate_size",)) or inner
    block = matrices * hidden * (experts * width_of_expert if experts > 1 else inner)
    tables = 1 if _ties(text) else 2
    return tables * vocabulary * hidden + layers * (attention + block)


def _ties(text: Mapping[str, Any]) -> bool:
    """Return whether the output embeddings are the input embeddings; some families tie them by default."""
    return bool(text.get("tie_word_embeddings", str(text.get("model_type")) in _TIED))


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """Return the first of the keys that has a positive whole number."""
    found = (config.get(name) for name in names)
    return next(
        (value for value in found if isinstance(value, int) and not isinstance(value, bool) and value > 0), None
    )
