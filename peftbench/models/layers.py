"""A base's transformer blocks, and the modules that a method puts on them: found, and switched off."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import nn

from peftbench.errors import Unsupported


class Switchable(Protocol):
    """A module that adds nothing while it is not enabled."""

    enabled: bool


def blocks(model: Any, method: str) -> list[Any]:
    """Return the decoder's blocks, from the lowest up; of a base with several towers, those of the one for text.

    Raises:
        Unsupported: if there is no list of them, in the name of the method that asks.
    """
    depth = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.get_decoder().modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if not lists:
        raise Unsupported(f"{method}: {type(model).__name__} has no list of its {depth} blocks")
    # a block may hold as many experts as there are blocks
    sizes = [sum(p.numel() for p in found.parameters()) for found in lists]
    return list(lists[sizes.index(max(sizes))])


def check_layers(layers: int, depth: int, method: str) -> None:
    """Raise ``Unsupported`` where more topmost layers are asked for than a base has."""
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
