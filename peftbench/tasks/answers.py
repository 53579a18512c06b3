"""Extract answers from texts with a pattern that is applied to predictions and targets alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

from peftbench.records import patterns
from peftbench.tasks import numbers

_MARKED = re.compile(r"####\s*([^\n]*)")
_NEXT_QUESTION = re.compile(r"\n\s*\n|\n\s*(?:Question|Q|Problem|Instruction)\s*:|\n###\s", re.IGNORECASE)
"""Where a model that does not stop begins a new question."""


def _last_number(text: str) -> str | None:
    """Return the last number of the first answer, without words around it such as units; None if it is ambiguous."""
    first = _NEXT_QUESTION.split(text.strip(), maxsplit=1)[0]
    found = list(numbers.numbers(numbers.prepared(first)))
    return _written(found[-1]) if found else None


def _gsm8k(text: str) -> str | None:
    """Return the number after the first ``####``; without one, the last number."""
    marked = _MARKED.search(text)
    if marked is None:
        return _last_number(text)
    found = next(numbers.numbers(numbers.prepared(marked[1])), None)
    return _written(found) if found else None


def _written(number: numbers.Number) -> str | None:
    return None if number.value is None else numbers.written(number.value)


NAMED: Mapping[str, Callable[[str], str | None]] = MappingProxyType({"gsm8k": _gsm8k, "number": _last_number})
"""Named patterns: ``gsm8k`` (Cobbe et al. 2021, arXiv:2110.14168, mark answers with ``####``) and ``number``."""


def problem(pattern: str) -> str | None:
    """Return what is wrong with a pattern; None if it is valid."""
    if pattern in NAMED:
        return None
    try:
        groups = re.compile(pattern).groups
    except (re.error, ValueError, OverflowError, RecursionError, MemoryError) as error:
        return f"not a regular expression: {error}"
    return None if groups == 1 else f"a regular expression with {groups} groups; allowed: exactly one, the answer"


def read_answer(pattern: str, text: str) -> str | None:
    """Return the answer in a text; None if the pattern finds none.

    Numbers are returned in one canonical form, whichever pattern found them: ``peftbench.tasks.numbers`` says what is
    read as a number and what is ambiguous. With a named pattern, an ambiguous number is no answer; with a regular
    expression, it is the text as it stands.

    Args:
        pattern: a name in ``NAMED``, or a regular expression whose only group is the answer; its first match counts.
        text: a prediction or a target.

    Raises:
        UserError: if the regular expression takes more than a second on the text.
    """
    if pattern in NAMED:
        return NAMED[pattern](text)
    found = patterns.search(pattern, text)
    if found is None or found[1] is None:
        return None
    answer = found[1].strip()
    return numbers.only(answer) or answer or None
