"""Counts that options give as text."""

from __future__ import annotations

import re


def read(text: str) -> int | None:
    """Return a whole number from 1 on, of at most 15 digits and with underscores allowed; None for any other text."""
    plain = re.fullmatch("0*([1-9][0-9]{0,14})", text.strip().replace("_", ""))
    return int(plain[1]) if plain else None
