"""Heads of the score columns of a terminal's table: the names of tasks, shortened by what they have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence

WIDEST = 12
"""Longest line of a head in characters, if the name can be broken."""
_PART = re.compile(r"[^-_/. ]*[-_/. ]*")


def heads_of(tasks: Sequence[str]) -> dict[str, str]:
    """Return the head of each task's column, two lines of which the second ends with the unit.

    A name that is too long loses the beginning that all tasks share; what is still too long is broken between words.
    """
    shared = _shared(tasks) if any(len(task) > WIDEST for task in tasks) else ""
    return {task: _broken(f"…{task[len(shared) :]}" if shared else task) for task in tasks}


def _shared(tasks: Sequence[str]) -> str:
    """Return the words that all names begin with; empty for one task, or if a name would be left empty."""
    each = [_PART.findall(task)[:-1] for task in tasks]
    found = ""
    for parts in zip(*each, strict=False):
        if len(set(parts)) > 1 or any(len(task) == len(found) + len(parts[0]) for task in tasks):
            break
        found += parts[0]
    return found if len(tasks) > 1 else ""


def _broken(name: str) -> str:
    """Return a name with the unit, over two lines."""
    if len(name) <= WIDEST:
        return f"{name}\n%"
    parts = [part for part in _PART.findall(name) if part]
    broken = [("".join(parts[:place]).rstrip(), f"{''.join(parts[place:])} %") for place in range(1, len(parts))]
    if not broken:
        return f"{name}\n%"
    return "\n".join(min(broken, key=lambda lines: max(map(len, lines))))
