"""Counts, ranges and lists in English."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


def plural(n: int, noun: str) -> str:
    """Return "1 trial" or "2,400 trials"."""
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def agreeing(n: int, one: str, many: str) -> str:
    """Return the verb for this many: ``one`` for 1, else ``many``."""
    return one if n == 1 else many


_CONTROLS = "\x7f-\x9f\u202a-\u202e\u2066-\u2069"
"""Control characters beyond ASCII's, of which terminals take U+009B for the start of a command, and those that change
the direction of text."""


def printable(line: str) -> str:
    """Return a line with a space for each run of control characters, which names have and which control terminals."""
    return re.sub(rf"[\x00-\x1f{_CONTROLS}]+", " ", line)


def printable_lines(text: str) -> str:
    """Return a text as ``printable`` does, with its tabs and line feeds."""
    return re.sub(rf"[\x00-\x08\x0b-\x1f{_CONTROLS}]+", " ", text)


def no_formula(value: Any) -> Any:
    """Return a text with an apostrophe before it if a spreadsheet would take it for a formula; numbers as they are."""
    if isinstance(value, str) and value[:1] in _FORMULA and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[-+]?[0-9][0-9.,]*([eE][-+]?[0-9]+)?%?")


def series(names: Sequence[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def span(values: Iterable[Any], text: Callable[[Any], str] = "{:,}".format) -> str:
    """Return the smallest and the largest value as "2.1 to 9.8"; one number where both read the same.

    Args:
        values: at least one.
        text: how one value is written.
    """
    known = list(values)
    return " to ".join(dict.fromkeys(text(value) for value in (min(known), max(known))))


def abridged(names: Sequence[str], most: int) -> str:
    """Return at most this many names, then how many more there are: "a, b and 7 more"."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[:most])} and {len(names) - most} more"


def rates(by_name: Mapping[str, float]) -> str:
    """Return learning rates with the names of what has them: "4e-05 for full bf16, 0.0004 for lora r=8 bf16"."""
    groups: dict[float, list[str]] = {}
    for name, rate in by_name.items():
        groups.setdefault(rate, []).append(name)
    return "; ".join(f"{rate:g} for {', '.join(names)}" for rate, names in groups.items())
