"""Read the anatomy of a base model from a folder: build its model without weights, then ask the other modules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from peftbench.errors import Unsupported, UserError
from peftbench.models import causality, configs, dry_load, here, layers, size, tokenizer_file
from peftbench.models.anatomy import attention, blocks, feed_forward, norms, parts, positions
from peftbench.models.anatomy.order import trace
from peftbench.models.anatomy.record import Anatomy, Vocabulary


def read(folder: Path, trust_remote_code: bool = False) -> Anatomy:
    """Return how the base model in a folder is built; weights are not read and may be missing.

    Raises:
        UserError: if the config cannot be read, or transformers cannot build its model.
        Unsupported: if it is no causal language model.
    """
    try:
        config = configs.load_config(folder, trust_remote_code)
    except UserError:
        raise
    except Exception as error:  # of many kinds, and a model's own code may raise any
        raise UserError(f"{folder}: config.json: {_first_line(error)}") from error
    causality.check_config(config)
    return of(config, _built(folder, config, trust_remote_code), tokenizer(folder))


def of(config: Any, model: nn.Module, own: Vocabulary | None) -> Anatomy:
    """Return how a model is built.

    Args:
        config: its transformers config.
        model: built of it on ``meta``, before anything is attached.
        own: its tokenizer.
    """
    text = config.get_text_config()
    decoder = _decoder(model)
    found = [blocks.split(layer) for layer in decoder]
    order = trace(config, next((n for n, block in enumerate(found) if block.attention is not None), None))
    return Anatomy(
        family=_word(getattr(config, "model_type", None)),
        model=type(model).__name__,
        layers=len(decoder) or None,
        width=_width(model),
        context=size.context({**text.to_dict(), "max_position_embeddings": _context(text)}),
        tokenizer=own,
        embedded=dry_load.rows(model),
        positions=positions.find(text, model, found),
        attention=attention.find(text, found),
        normalization=norms.find(found, order, _width(model)),
        feed_forward=feed_forward.find(text, found),
        parallel=order.parallel if order else None,
        experts=feed_forward.experts(text, found),
        tied=parts.tied(model),
        parameters=parts.count(model, found),
    )


def tokenizer(folder: Path) -> Vocabulary | None:
    """Return the tokenizer of a folder; None if it has none, its kind None if only transformers could read it."""
    if not here.has_tokenizer(folder):
        return None
    try:
        fast = tokenizer_file.read(folder).fast
    except Unsupported:
        return Vocabulary(None, None)
    kind = type(fast.model).__name__
    steps = f"{fast.pre_tokenizer!r} {fast.decoder!r}"
    known = kind in ("BPE", "Unigram", "WordPiece", "WordLevel")
    return Vocabulary(
        f"byte-level {kind}" if kind == "BPE" and "ByteLevel" in steps else kind if known else None,
        int(fast.get_vocab_size(with_added_tokens=True)),
    )


def _built(folder: Path, config: Any, trust_remote_code: bool) -> nn.Module:
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        return model
    except Exception as error:
        raise UserError(f"{folder}: transformers cannot build its model: {_first_line(error)}") from error


def _decoder(model: nn.Module) -> list[nn.Module]:
    try:
        return list(layers.decoder_layers(model))
    except LookupError:
        return []


def _width(model: nn.Module) -> int | None:
    try:
        return layers.width(model)
    except (AttributeError, NotImplementedError, LookupError):
        return None


def _context(text: Any) -> int | None:
    found = getattr(text, "max_position_embeddings", None)
    return found if isinstance(found, int) else None


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().partition("\n")[0][:300]
