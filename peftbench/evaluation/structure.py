"""What a model's modules hold, remembered and put back: submodules, hooks, flags, and which tensors; not their values.

A method changes a base by wrapping its modules, hooking them and setting attributes. Putting back what was there before
makes the base bare again without a copy of it, and putting back what is there now undoes whatever a measurement does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

_WEIGHTS = ("_parameters", "_buffers")


@dataclass(frozen=True)
class Structure:
    """The attributes of some modules."""

    attributes: tuple[tuple[nn.Module, dict[str, tuple[Any, Any]]], ...]
    """Per module and attribute: its value, and a shallow copy where it is a container that can change in place."""


def remember(modules: Iterable[nn.Module], weights: bool = True) -> Structure:
    """Remember modules as they are now; without ``weights`` no tensor is kept alive by it, and none put back."""
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
    if name == "state" and hasattr(value, "SCB"):  # what a bitsandbytes int8 layer keeps of its weight
        return dict(vars(value))
    return None


def put_back(structure: Structure) -> None:
    """Give modules the attributes that were remembered, and no others."""
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
    """Within the context, modules are as they are remembered in one structure; after it, as in another."""
    put_back(inside)
    try:
        yield
    finally:
        put_back(outside)


@contextmanager
def kept(model: nn.Module) -> Iterator[None]:
    """Undo what happens to a model within the context, but for writing into the tensors that it has now."""
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
