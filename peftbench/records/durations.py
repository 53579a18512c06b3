"""Read times like ``2h``, ``90min`` or ``1h30m``, the same for every option that takes one."""

from __future__ import annotations

import math
import re

from peftbench.errors import UserError

_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_AMOUNT = r"(\d+(?:\.\d*)?|\.\d+)\s*"
_PARTS = (
    ("d", r"(?:days?|d)"),
    ("h", r"(?:hours?|hrs?|h)"),
    ("m", r"(?:minutes?|mins?|m)"),
    ("s", r"(?:seconds?|secs?|s)"),
)
_DURATION = re.compile(r"\s*".join(f"(?:{_AMOUNT}{unit}(?![a-z]))?" for _, unit in _PARTS), re.ASCII | re.IGNORECASE)


def read(given: str | float, option: str) -> float:
    """Return a time in seconds.

    Args:
        given: amounts with their units, the largest unit first: ``90s``, ``30min``, ``1h30m``, ``1.5d``; or seconds.
        option: what it was given for, for the message.

    Raises:
        UserError: if it is no time, or not above 0.
    """
    if isinstance(given, str):
        found = _DURATION.fullmatch(given.strip())
        amounts = zip(found.groups() if found else (), _PARTS, strict=False)
        seconds = sum(float(amount) * _SECONDS[unit] for amount, (unit, _) in amounts if amount)
    else:
        seconds = float(given) if isinstance(given, float | int) else 0.0
    if not 0 < seconds < math.inf:
        raise UserError(f"{option}: given {given!r}; allowed: a time above 0 like 90s, 30min, 2h or 1h30m")
    return seconds
