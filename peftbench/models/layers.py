"""The decoder layers of a base model, and switching off the modules that a method adds to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import nn

from peftbench.errors import Unsupported
from peftbench.models import text_part

_DECODER_DEPTHS = ("decoder_layers", "num_decoder_layers")


class Switchable(Protocol):
    """A module that leaves the model's output unchanged while ``enabled`` is false."""

    enabled: bool


def decoder_layers(model: Any) -> nn.ModuleList:
    """Return the decoder layers of a causal language model, from the lowest to the topmost.

    They are the largest, by number of parameters, of the module lists inside the decoder whose length is the depth
    that the text config states. The decoder is ``model.get_decoder()`` without the towers that it may contain, so
    the layers of a vision tower are never returned, for any number and sizes of them. Size decides between the layers
    and other lists of that length, such as the experts of a mixture in a layer. Of equally large lists the first is
    taken.

    Args:
        model: a transformers model, or one that a method was attached to and that passes on its attributes (peft's).

    Raises:
        LookupError: if the config states no number of layers, or the decoder has no list of that length.
    """
    depth = stated_depth(model.config)
    if depth is None:
        raise LookupError(f"{type(model).__name__} states no number of decoder layers in its config")
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    if not any(isinstance(m, nn.ModuleList) for m in decoder.modules()):
        decoder = model  # transformers takes a module of that name, which in ModernBERT's decoder is the head
    aside = {id(m) for tower in text_part.towers(model).values() for m in tower.modules()}
    lists = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == depth and id(m) not in aside]
    if not lists:
        raise LookupError(f"{type(model).__name__} has no list of its {depth} decoder layers")
    return max(lists, key=lambda found: sum(p.numel() for p in found.parameters()))


def stated_depth(config: Any) -> int | None:
    """Return the number of decoder layers that a transformers config states; None if it states none."""
    text = config.get_text_config()
    found = getattr(text, depth_field(text), None)
    return found if isinstance(found, int) else None


def depth_field(text: Any) -> str:
    """Return the field of a text config with the number of decoder layers.

    Configs of encoder-decoder models, whose decoder can be a model of its own, call it differently.
    """
    return next((name for name in _DECODER_DEPTHS if hasattr(text, name)), "num_hidden_layers")


def width(model: Any) -> int:
    """Return the width of the residual stream: the text config's ``hidden_size``, else that of the embeddings."""
    found = getattr(model.config.get_text_config(), "hidden_size", None)
    return found if isinstance(found, int) else int(model.get_input_embeddings().weight.shape[1])


def decoder_layers_for(method: str, model: Any) -> nn.ModuleList:
    """Return the decoder layers for a method that cannot be attached without them.

    Args:
        method: the method's name, which begins the error message.
        model: the base model.

    Raises:
        Unsupported: if the model has no list of its decoder layers.
    """
    try:
        return decoder_layers(model)
    except LookupError as error:
        raise Unsupported(f"{method}: {error}") from None


def check_layers(layers: int, depth: int, method: str) -> None:
    """Check the option ``layers``, a number of topmost decoder layers, against the depth of the base model.

    Raises:
        Unsupported: if the base model has fewer layers.
    """
    if layers > depth:
        raise Unsupported(f"{method}: layers={layers}, but the base has only {depth}")


@contextmanager
def switched_off(modules: Iterable[Switchable]) -> Iterator[None]:
    """Switch modules off within the context."""
    held = list(modules)
    for module in held:
        module.enabled = False
    try:
        yield
    finally:
        for module in held:
            module.enabled = True
