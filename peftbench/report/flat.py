"""Nested settings as dotted names and plain texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftbench.results.settings import flatten


def flat_texts(nested: Mapping[str, Any]) -> dict[str, str]:
    """Return nested settings by their dotted names (see ``results.settings.flatten``), each value as plain text."""
    return {name: plain(value) for name, value in flatten(nested).items()}


def plain(value: Any) -> str:
    """Return one value as text: none, yes or no, numbers without needless digits, lists with commas."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    if isinstance(value, list):
        parts = (" ".join(map(plain, item)) if isinstance(item, list) else plain(item) for item in value)
        return ", ".join(parts) or "none"
    return str(value)


def natural(text: str) -> tuple[int, float, str]:
    """Return what sorts numbers by size, before words."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)
