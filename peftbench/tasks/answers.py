"""Extract answers from texts with a pattern that is applied to predictions and targets alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from types import MappingProxyType

_NUMBER = re.compile(r"(?:(?<![\w)])-)?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|(?:(?<![\w)])-)?\.\d+")
"""Digits, with or without commas between thousands; a dash after a word or a bracket is not a minus sign."""
_MARKED = re.compile(r"####\s*([^\n]*)")
_NEXT_QUESTION = re.compile(r"\n\s*\n|\n\s*(?:Question|Q|Problem|Instruction)\s*:|\n###\s", re.IGNORECASE)
"""Where a model that does not stop begins a new question."""


def _plain(number: str) -> str:
    """Return a number in canonical form: "$2,125.00" and "2125" are the same answer."""
    value = Decimal(re.sub(r"[$,]", "", number))
    text = format(value.normalize(), "f")
    return "0" if value == 0 else text


def _last_number(text: str) -> str | None:
    """Return the last number of the first answer, without words around it such as units."""
    first = _NEXT_QUESTION.split(text.strip(), maxsplit=1)[0]
    found = _NUMBER.findall(first)
    return _plain(found[-1]) if found else None


def _gsm8k(text: str) -> str | None:
    """Return the number after the first ``####``; without one, the last number."""
    marked = _MARKED.search(text)
    if marked is None:
        return _last_number(text)
    found = _NUMBER.search(marked[1])
    return _plain(found[0]) if found else None


NAMED: Mapping[str, Callable[[str], str | None]] = MappingProxyType({"gsm8k": _gsm8k, "number": _last_number})
"""Named patterns: ``gsm8k`` (Cobbe et al. 2021, arXiv:2110.14168, mark answers with ``####``) and ``number``."""


def problem(pattern: str) -> str | None:
    """Return what is wrong with a pattern; None if it is valid."""
    if pattern in NAMED:
        return None
    try:
        groups = re.compile(pattern).groups
    except (re.error, OverflowError, RecursionError) as error:
        return f"not a regular expression: {error}"
    return None if groups == 1 else f"a regular expression with {groups} groups; allowed: exactly one, the answer"


def read_answer(pattern: str, text: str) -> str | None:
    """Return the answer in a text; None if the pattern finds none.

    Numbers are returned without commas, currency sign and trailing zeros, whichever pattern found them.

    Args:
        pattern: a name in ``NAMED``, or a regular expression whose only group is the answer; its first match counts.
        text: a prediction or a target.
    """
    if pattern in NAMED:
        return NAMED[pattern](text)
    found = re.search(pattern, text)
    if found is None or found[1] is None:
        return None
    answer = found[1].strip()
    number = _NUMBER.fullmatch(answer.rstrip("."))
    return (_plain(number[0]) if number else answer) or None
