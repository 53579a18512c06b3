"""Numbers as text, one function per unit. ``None`` and NaN are written "–", never zero."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

MISSING = "–"
"""What stands where nothing was measured or nothing applies."""

Number = float | int | None


@dataclass(frozen=True)
class Unit:
    """A unit that a whole column shares, so that its numbers can be compared by eye."""

    name: str
    """As it is written in the column's head."""
    size: float
    """How many base units it is."""


BYTE_UNITS = tuple(Unit(name, 1024.0**power) for power, name in enumerate(("B", "KiB", "MiB", "GiB", "TiB")))
COUNT_UNITS = (Unit("", 1.0), Unit("k", 1e3), Unit("M", 1e6), Unit("B", 1e9), Unit("T", 1e12))


def number(value: Number) -> str:
    """Return three significant digits below a hundred, whole numbers with thousands separators above."""
    if value is None or math.isnan(value):
        return MISSING
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 6)}f}"


def small(value: Number) -> str:
    """Return a number as ``number`` does; below a thousandth with two digits and an exponent: "2.4e-05"."""
    return f"{value:.1e}" if value is not None and 0 < abs(value) < 1e-3 else number(value)


def count(value: Number, significant: bool = False) -> str:
    """Return "1.2 M": a count with a decimal prefix (k, M, B = billion, T).

    Args:
        value: the count.
        significant: whether to give three significant digits in place of one decimal: "984 k" for "984.2 k".
    """
    if value is None or math.isnan(value):
        return MISSING
    unit = _largest(COUNT_UNITS, value)
    if unit.size == 1:
        return f"{value:.0f}"
    return f"{number(value / unit.size) if significant else f'{value / unit.size:.1f}'} {unit.name}"


def integer(value: Number) -> str:
    """Return a whole number with thousands separators."""
    return MISSING if value is None or math.isnan(value) else f"{value:,.0f}"


def memory(value: Number, digits: int | None = 1) -> str:
    """Return "3.1 MiB": bytes with a binary prefix.

    Args:
        value: bytes; may be negative.
        digits: decimals in all units but single bytes; None for three significant digits.
    """
    if value is None or math.isnan(value):
        return MISSING
    unit = _largest(BYTE_UNITS, value)
    if unit.size == 1:
        return f"{value:,.0f} B"
    scaled = value / unit.size
    return f"{number(scaled) if digits is None else f'{scaled:.{digits}f}'} {unit.name}"


def seconds(value: Number) -> str:
    """Return "0.52 s", "12.3 s", "4 min 05 s" or "2 h 05 min"."""
    if value is None or math.isnan(value):
        return MISSING
    if not math.isfinite(value):
        return f"{number(value)} s"
    if value < 120:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def chance(share: float) -> str:
    """Return a probability in percent, as the page has it: "<1" and ">99" for what is nearly but not 0 or 100."""
    if 0 < share < 0.01:
        return "<1"
    return ">99" if 0.99 < share < 1 else f"{100 * share:.0f}"


def percent(fraction: Number, digits: int = 1) -> str:
    """Return "81.3 %" for 0.813."""
    return MISSING if fraction is None or math.isnan(fraction) else f"{100 * fraction:.{digits}f} %"


def share(fraction: Number) -> str:
    """Return a share of a whole in percent, so that small ones keep two significant digits: "0.41 %", "100 %"."""
    if fraction is None or math.isnan(fraction):
        return MISSING
    value = 100 * fraction
    if value == 0 or value >= 99.95:
        return f"{value:.0f} %"
    return f"{value:.{max(1, 1 - math.floor(math.log10(abs(value))))}f} %"


def spread(mean: Number, sd: Number, scale: float = 1.0, digits: int = 1) -> str:
    """Return "81.3 ± 1.2"; the mean alone for a single seed."""
    if mean is None or math.isnan(mean):
        return MISSING
    text = f"{mean * scale:,.{digits}f}"
    return text if sd is None or math.isnan(sd) else f"{text} ± {sd * scale:,.{digits}f}"


def byte_unit(values: Iterable[Number]) -> Unit:
    """Return the unit in which the middle one of these byte counts is at least one."""
    known = sorted(v for v in values if v is not None and not math.isnan(v) and v > 0)
    return _largest(BYTE_UNITS, known[(len(known) - 1) // 2]) if known else BYTE_UNITS[2]


def decimals(values: Iterable[float]) -> int:
    """Return how many decimals give the middle one of these values three significant digits, at most three."""
    known = [abs(value) for value in values if value]
    return min(3, max(0, 2 - math.floor(math.log10(statistics.median_low(known))))) if known else 0


def _largest(units: tuple[Unit, ...], value: float) -> Unit:
    return next((unit for unit in reversed(units) if abs(value) >= unit.size), units[0])
