"""A model's parameters by part, each parameter once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from peftbench.models.anatomy import blocks
from peftbench.models.anatomy.blocks import Block
from peftbench.models.anatomy.record import PARTS


def count(model: nn.Module, layers: Sequence[Block]) -> dict[str, int]:
    """Return the number of parameters of each of ``PARTS``.

    Tied output embeddings are the embeddings' and not the head's. Towers for images or sound, recurrences and
    convolutions are among the other ones.

    Args:
        model: on ``meta``.
        layers: its decoder layers in parts.
    """
    found = dict.fromkeys(PARTS, 0)
    seen: set[int] = set()

    def add(part: str, parameters: Iterable[nn.Parameter]) -> None:
        for parameter in parameters:
            if id(parameter) not in seen:
                seen.add(id(parameter))
                found[part] += parameter.numel()

    add("embeddings", _of(end(model, "get_input_embeddings")))
    add("head", _of(end(model, "get_output_embeddings")))
    inside = {id(m) for layer in layers for m in layer.layer.modules()}
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding) and id(module) not in inside and not _is_tower(name):
            add("embeddings", module.parameters())
    for name, module in model.named_modules():
        if blocks.is_norm(name.rpartition(".")[2], module) and not _is_tower(name):
            add("norms", module.parameters(recurse=False))
    for layer in layers:
        add("attention", _of(layer.attention))
        for module in layer.feed_forward:
            add("MLP", module.parameters())
    add("other", model.parameters())
    return found


def tied(model: nn.Module) -> bool | None:
    """Return whether a model's output embeddings are its input embeddings; None if it does not say which they are."""
    first, last = (end(model, name) for name in ("get_input_embeddings", "get_output_embeddings"))
    own = [getattr(module, "weight", None) for module in (first, last)]
    return None if any(weight is None for weight in own) else own[0] is own[1]


def end(model: nn.Module, getter: str) -> Any:
    """Return a model's input or output embeddings; None if it does not say which they are."""
    try:
        return getattr(model, getter)()
    except (AttributeError, NotImplementedError):
        return None


def _of(module: Any) -> Iterable[nn.Parameter]:
    return module.parameters() if isinstance(module, nn.Module) else ()


def _is_tower(name: str) -> bool:
    from peftbench.models import text_part

    return text_part._OTHER_SENSE.search(name) is not None
