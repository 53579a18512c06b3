"""A head that gives a number per class for a whole text, on a decoder or an encoder, the same for every method.

The model is transformers' ``AutoModelForSequenceClassification``. Its head is everything outside of the base model
(``score``; ``classifier``; DeBERTa's ``pooler``) and BERT's pooler, which is inside, but does what ``classifier.dense``
does in RoBERTa and ``pooler.dense`` in DeBERTa. The layer that gives the logits is always drawn anew from the trial's
seed, and so is all of the head that a checkpoint lacks.

A decoder's head reads the last data token, an encoder's what its own code takes, mostly the first one. With virtual
tokens before the text, transformers would take the last padding token of a decoder and the first virtual token of an
encoder; ``logits`` takes the same data token as without them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from peftbench.models.layers import decoder_layers
from peftbench.records import Head

FILE = "classification_head.safetensors"
"""The file with the weights of a trained head, beside those of an adapter; a fully fine-tuned model contains it."""
_POOLER = re.compile(r"(^|\.)pooler\.")
_FEWEST = 2
"""Outputs if the classes are not known, which only a plan without data can be."""


@dataclass
class Placed:
    """The head of a model, kept with its base model as ``peftbench_head``."""

    names: tuple[str, ...]
    """Its parameters in the base model."""
    fresh: frozenset[str]
    """Those of them that are drawn anew."""
    reads_last: bool
    """Whether it reads the last data token, as in decoders, rather than what the model's own code takes."""
    tells_pairs: bool
    """Whether it is told which text of a pair a token belongs to: tokenizers say it for models that do not know it."""
    tokens: int | None = None
    """t: data tokens of the rows of the forward pass that is running; None before the first."""
    skips: bool = True
    """Whether it reads a data token, too, if virtual ones are before the text."""
    every: torch.Tensor | None = None
    """(b, p + t, classes): what the head gave at every position of a decoder, in the forward pass that is running."""


def config(found: Any, head: Head, pad_id: int | None = None) -> Any:
    """Return a base model's config with the head's outputs, and with a padding token, which some heads refuse to lack.

    Args:
        found: the config; it is changed.
        head: the head.
        pad_id: id of the token that pads; None to keep the config's own, or else 0.
    """
    found.num_labels = head.outputs or _FEWEST
    text = found.get_text_config()
    text.pad_token_id = next(p for p in (pad_id, getattr(text, "pad_token_id", None), 0) if p is not None)
    return found


def auto_class(head: Head | Placed | None) -> Any:
    """Return transformers' class that makes the model: with a head for whole texts, or one that predicts tokens."""
    import transformers

    return transformers.AutoModelForCausalLM if head is None else transformers.AutoModelForSequenceClassification


def outer(model: Any) -> list[str]:
    """Return the names of the modules of a model for whole texts that are outside of its base model."""
    if not type(model).__name__.endswith("ForSequenceClassification"):
        return []
    return [name for name, module in model.named_children() if name != model.base_model_prefix and _weighted(module)]


def _weighted(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def names_in(model: Any) -> tuple[str, ...]:
    """Return the parameters of the head of a model for whole texts, which a checkpoint need not have; none without."""
    own = outer(model)
    named = [name for name, _ in model.named_parameters()]
    return tuple(n for n in named if n.partition(".")[0] in own or (own and _POOLER.search(n)))


def modules(model: Any) -> list[str]:
    """Return the names of the modules of the head of a model for whole texts that hold its parameters."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names_in(model)))


def place(model: Any, missing: Iterable[str] | None = None) -> None:
    """Mark the head of a model that was just made, so that ``logits`` and all that treats it apart find it.

    Args:
        model: a model of ``auto_class``, before a method is attached.
        missing: parameters that its checkpoint lacks or has in another shape; None if there is no checkpoint.
    """
    names = names_in(model)
    top = names[-1].rpartition(".")[0]  # gives the logits
    lacking = {*names} if missing is None else {*missing}
    fresh = frozenset(n for n in names if n in lacking or n.rpartition(".")[0] == top)
    last = isinstance(getattr(model, "score", None), nn.Linear)
    types = getattr(model.config, "type_vocab_size", None)
    placed = model.peftbench_head = Placed(names, fresh, last, isinstance(types, int) and types > 1)
    if last:
        model.score.register_forward_hook(lambda _, __, out: setattr(placed, "every", out))
        return
    found = _topmost(model)
    placed.skips = found is not None
    if found is not None:
        found.register_forward_hook(lambda _, __, out: _data_only(placed, out))


def _topmost(model: Any) -> nn.Module | None:
    """Return an encoder's last layer, or all of its layers together where they share weights (ALBERT); None if neither.

    A layer that runs several times must not lose tokens after each.
    """
    stack = getattr(model.base_model, "encoder", None)
    if isinstance(stack, nn.Module) and hasattr(stack, "albert_layer_groups"):
        return stack
    try:
        return decoder_layers(model)[-1]
    except LookupError:
        return None


def _data_only(placed: Placed, output: Any) -> Any:
    """Return the output of an encoder's layers without virtual tokens, so that the head finds the first token."""
    first = next(iter(output.values())) if isinstance(output, dict) else output
    hidden, *rest = first if isinstance(first, tuple) else (first,)
    if placed.tokens is None or hidden.shape[1] == placed.tokens:
        return output
    hidden = hidden[:, -placed.tokens :]
    if isinstance(output, dict):
        return type(output)(**{**output, next(iter(output)): hidden})
    return (hidden, *rest) if isinstance(output, tuple) else hidden


def initialize(model: Any, head: Head, dtype: torch.dtype) -> None:
    """Draw what is new of the head as the model's class does, from the trial's seed alone, in the trainable dtype."""
    base = base_of(model)
    placed = base.peftbench_head
    drawn = dict.fromkeys(name.rpartition(".")[0] for name in placed.names if name in placed.fresh)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(head.seed)
        for name in drawn:
            parent, _, own = name.rpartition(".")
            found = base.get_submodule(name)
            if isinstance(found, nn.Linear):
                bias = found.bias is not None
                fresh = nn.Linear(found.in_features, found.out_features, bias, dtype=torch.float32)
                setattr(base.get_submodule(parent), own, _drawn(base, fresh).to(found.weight.device, dtype))
            else:
                _drawn(base, found.to(dtype))
    if placed.reads_last:  # the module is another one
        base.score.register_forward_hook(lambda _, __, out: setattr(placed, "every", out))
    for _, parameter in parameters(model):
        parameter.data = parameter.data.to(dtype)
        parameter.requires_grad_(False)


def _drawn(base: Any, module: nn.Module) -> nn.Module:
    base._init_weights(module)
    return module


def base_of(model: Any) -> Any:
    """Return the base model's own module, of a base model or a tuned one, or of one that DDP has wrapped."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def placed_in(model: Any) -> Placed | None:
    """Return the head of a model; None if the model predicts tokens."""
    found = getattr(base_of(model), "peftbench_head", None)
    return found if isinstance(found, Placed) else None


def parameters(model: Any) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters of a model's head with their names in the base model; none if it predicts tokens."""
    placed, base = placed_in(model), base_of(model)
    return [(name, base.get_parameter(name)) for name in placed.names] if placed else []


def apart(model: Any) -> set[int]:
    """Return the ids of the parameters of a model's head; empty if it predicts tokens."""
    return {id(p) for _, p in parameters(model)}


def count(model: Any) -> int | None:
    """Return the number of parameters of a model's head; None if it has none."""
    return sum(p.numel() for _, p in parameters(model)) if placed_in(model) else None


def trainable(model: Any, dtype: torch.dtype) -> None:
    """Let the head of a tuned model train, in the dtype of trainable weights."""
    for _, parameter in parameters(model):
        parameter.data = parameter.data.to(dtype)
        parameter.requires_grad_(True)


def logits(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits of whole texts, (b, classes), whatever a method puts before them.

    Args:
        model: a base model with a head, or a tuned one.
        inputs: ``attention_mask`` of shape (b, t), padded on the right, ``input_ids`` or ``inputs_embeds``, and for
            pairs ``token_type_ids``, which models with a single type are not given.
    """
    placed = placed_in(model)
    assert placed is not None
    if not placed.tells_pairs:
        inputs = {name: given for name, given in inputs.items() if name != "token_type_ids"}
    mask = inputs["attention_mask"]
    placed.tokens, placed.every = mask.shape[1], None
    if not placed.reads_last:
        found: torch.Tensor = model(**inputs).logits
        return found
    model(**inputs, use_cache=False)
    every, placed.every = placed.every, None
    assert every is not None
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(-1) - mask.shape[1]
    return every[torch.arange(len(mask), device=mask.device), last]


def predictions(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return what a model predicts: logits of whole texts, (b, classes), or of next tokens, (b, p + t, v).

    Args:
        model: a base model or a tuned one.
        inputs: its arguments.
    """
    if placed_in(model) is not None:
        return logits(model, inputs)
    found: torch.Tensor = model(**inputs, use_cache=False).logits
    return found


def save(model: Any, folder: Path) -> None:
    """Write the head's weights, by their names in the base model; nothing if the model predicts tokens."""
    state = {name: p.detach().cpu().contiguous() for name, p in parameters(model)}
    if state:
        save_file(state, folder / FILE, metadata={"format": "pt"})


@torch.no_grad()
def load(model: Any, folder: Path) -> None:
    """Copy the weights of a saved head, if there is one, into a model with a head."""
    if not (folder / FILE).is_file():
        return
    own = dict(parameters(model))
    for name, tensor in load_file(folder / FILE).items():
        own[name].data = tensor.to(own[name].device)
