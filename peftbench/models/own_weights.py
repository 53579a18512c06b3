"""Frozen weights that a method has added to a base model: they are the method's, with its dtype and in its memory."""

from __future__ import annotations

from typing import Any

_MARK = "peftbench_own_weight"


def mark(parameter: Any) -> None:
    """Say that a frozen parameter is the method's and not the base model's."""
    setattr(parameter, _MARK, True)


def frozen(parameter: Any) -> bool:
    """Return whether a parameter is a method's that does not train."""
    return not parameter.requires_grad and bool(getattr(parameter, _MARK, False))
