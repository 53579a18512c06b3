"""Functions named as text in records."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def resolve(path: str) -> Any:
    """Import and return the function named by ``module:function``."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
