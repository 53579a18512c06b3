"""Nested settings as dotted names and plain texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(nested: Any, prefix: str = "") -> dict[str, str]:
    """Return nested settings as dotted names and plain texts; records in a list go by their name."""
    if isinstance(nested, Mapping):
        return {k: v for key, value in nested.items() for k, v in flatten(value, f"{prefix}{key}.").items()}
    if isinstance(nested, list) and any(isinstance(item, Mapping) for item in nested):
        return flatten(dict(_named(item, place) for place, item in enumerate(nested)), prefix)
    return {prefix.removesuffix("."): plain(nested)}


def _named(item: Any, place: int) -> tuple[str, Any]:
    """Return what a record in a list goes by (its name, else its place) and the rest of it."""
    if isinstance(item, Mapping) and "name" in item:
        return str(item["name"]), {key: value for key, value in item.items() if key != "name"}
    return str(place), item


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
