"""Save and restore the structure of a model: submodules, hooks, attributes and which tensors, but not their values.

A method changes a base model by wrapping modules, adding hooks and setting attributes. Restoring the structure from
before gives the base model without a copy of it. Restoring the current structure undoes the changes of a measurement.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

_WEIGHTS = ("_parameters", "_buffers")


@dataclass(frozen=True)
class Structure:
    """The saved attributes of some modules."""

    attributes: tuple[tuple[nn.Module, dict[str, tuple[Any, Any]]], ...]
    """Per module and attribute: its value, and a shallow copy of it if it is a container that can change in place."""


def remember(modules: Iterable[nn.Module], weights: bool = True) -> Structure:
    """Save the current attributes of modules; without ``weights``, all but parameters and buffers."""
    return Structure(
        tuple(
            (
                module,
                {n: (value, _contents(n, value)) for n, value in vars(module).items() if weights or n not in _WEIGHTS},
            )
            for module in modules
        )
    )


def _contents(name: str, value: Any) -> Any:
    if isinstance(value, (dict, list, set)):
        return value.copy()
    if name == "state" and hasattr(value, "SCB"):  # the state of a bitsandbytes int8 layer
        return dict(vars(value))
    return None


def put_back(structure: Structure) -> None:
    """Restore the saved attributes of modules and remove all others."""
    for module, attributes in structure.attributes:
        held = vars(module)
        for name in [n for n in held if n not in attributes and n not in _WEIGHTS]:
            del held[name]
        for name, (value, contents) in attributes.items():
            held[name] = value
            if isinstance(value, list):
                value[:] = contents
            elif contents is not None:
                inner = value if isinstance(value, (dict, set)) else vars(value)
                inner.clear()
                inner.update(contents)


@contextmanager
def exchanged(inside: Structure, outside: Structure) -> Iterator[None]:
    """Give modules the structure ``inside`` within the context, and ``outside`` after it."""
    put_back(inside)
    try:
        yield
    finally:
        put_back(outside)


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Undo all changes to a model within the context, except those to the values of its current tensors."""
    current = remember(list(model.modules()))
    tensors = [(p, p.data, p.requires_grad) for p in model.parameters()]
    try:
        yield
    finally:
        put_back(current)
        for parameter, data, trains in tensors:
            if parameter.data.data_ptr() != data.data_ptr():
                parameter.data = data
            parameter.requires_grad_(trains)


def adapts_tied(model: nn.Module) -> bool:
    """Return whether a tuner adapts a weight that another module uses too, such as a head tied to the embedding."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    adapted = {id(getattr(layer.get_base_layer(), "weight", None)) for layer in layers}
    holders = Counter(id(p) for module in model.modules() for p in module._parameters.values())
    return any(holders[key] > 1 for key in adapted - {id(None)})
