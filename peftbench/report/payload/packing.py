"""Data as JSON that can stand inside a page: compact, without NaN, and with nothing that HTML could read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

_DIGITS = 6
"""Significant digits of a number on the page; the results folder has all of them."""
_EXACT = 2**53
"""Integers up to this size are exact in JavaScript."""


def packed(value: Any) -> str:
    """Return a value as JSON in one line, which neither ends a script element nor begins a comment in it.

    Numbers have six significant digits (integers all of theirs); NaN and infinite ones are null.
    """
    text = json.dumps(plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    text = text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return text.encode("utf-8", "replace").decode("utf-8")  # half of a surrogate pair cannot be written to a file


def plain(value: Any) -> Any:
    """Return a value with plain Python numbers, texts, lists and dicts only."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    try:
        return number(float(value))
    except (TypeError, ValueError):  # pandas' NA, and what is no number at all
        return None


def number(value: float) -> float | int | None:
    """Return a number with as many digits as the page shows; None if it is not finite."""
    if not math.isfinite(value):
        return None
    if value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    return float(f"{value:.{_DIGITS}g}")
