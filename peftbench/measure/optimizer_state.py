"""The state that an optimizer keeps of each parameter, also what it keeps inside objects (GaLore's projections)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def flat(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter's state by name, the attributes of an object as ``NAME.ATTRIBUTE``."""
    found: dict[str, Any] = {}
    for name, value in entry.items():
        if hasattr(value, "__dict__") and not isinstance(value, torch.Tensor):
            found |= {f"{name}.{attribute}": inner for attribute, inner in vars(value).items()}
        else:
            found[name] = value
    return found


def put(entry: dict[str, Any], name: str, value: Any) -> None:
    """Set one value by its name in ``flat``; the object that holds it must exist."""
    holder, _, attribute = name.partition(".")
    if attribute:
        setattr(entry[holder], attribute, value)
    else:
        entry[name] = value


def settings(optimizer: Any) -> list[dict[str, Any]]:
    """Return the numbers and words of each parameter group, in which some optimizers count their steps."""
    kinds = (bool, int, float, str, type(None))
    return [{k: v for k, v in group.items() if isinstance(v, kinds)} for group in optimizer.param_groups]


def set_settings(optimizer: Any, kept: list[dict[str, Any]]) -> None:
    """Give each parameter group what ``settings`` returned."""
    for group, values in zip(optimizer.param_groups, kept, strict=True):
        group.update(values)
