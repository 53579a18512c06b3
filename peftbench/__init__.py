"""peftbench: compare fine-tuning methods on one base model, with numbers that can be traced."""

from typing import Any

__version__ = "0.1.0"

PROTOCOL = 1
"""Raised by any change that moves numbers; part of every trial's key, so old results are never mixed with new ones."""


def __getattr__(name: str) -> Any:
    """Return ``bases``, where the cards of adapters that were kept by older versions look for a built-in base."""
    if name != "bases":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from peftbench.models import builtin

    return builtin
