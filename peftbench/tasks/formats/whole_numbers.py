"""Whole numbers that became floats, as pandas stores them beside missing values: integers again. No torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Literal

from peftbench.tasks.formats.records import Records

_Kind = Literal["missing", "integer", "float", "text", "other"]
_INTEGER, _FLOAT = re.compile(r"[+-]?\d+"), re.compile(r"[+-]?\d+\.0")
_EXACT = 2**53
"""A larger float need not be the number that it was made from."""


def restored(found: Records, others: Callable[[], Iterable[Records]] = tuple) -> Records:
    """Return records whose whole floats are integers where all splits together say that they were.

    A field is decided for all splits of a task alike: its values are whole numbers in all of them, and somewhere they
    are floats beside missing values, or integers. In CSV files, whose values are texts, ``1.0`` becomes ``1`` only
    beside empty fields and if another split has integers.

    Args:
        found: the records of one split, with plain values.
        others: returns those of the task's other splits; called only if a field has whole floats.
    """
    own = {name: kinds for name in _names(found) if (kinds := _kinds(found, name)) & {"float", "text"}}
    own = {name: kinds for name, kinds in own.items() if "other" not in kinds}
    if not own:
        return found
    rest = [*others()]
    alone: list[str] = []
    alike: list[str] = []
    for name, kinds in own.items():
        if _were_integers([kinds, *(_kinds(records, name) for records in rest)]):
            (alone if kinds == {"float", "missing"} else alike).append(name)
    changed = {*alone, *alike}
    rows = [{name: _integer(v) if name in changed else v for name, v in row.items()} for row in found.rows]
    notes = list(found.notes)
    if alone:
        notes.append(f"whole numbers beside missing values are read as integers: {', '.join(map(repr, alone))}")
    if alike:
        notes.append(f"whole numbers are read as integers, as in other splits: {', '.join(map(repr, alike))}")
    return Records(rows, found.lines, tuple(notes))


def _were_integers(splits: Iterable[set[_Kind]]) -> bool:
    """Return whether the whole floats of a field were integers, from the kinds of its values in each split."""
    seen = [kinds for kinds in splits if kinds - {"missing"}]
    every = set().union(*seen)
    if "other" in every:
        return False
    integers = any(kinds - {"missing"} == {"integer"} for kinds in seen)
    if "text" in every:
        return integers and {"text", "missing"} in seen
    return integers or {"float", "missing"} in seen


def _names(found: Records) -> Iterable[str]:
    return dict.fromkeys(name for row in found.rows for name in row)


def _kinds(found: Records, name: str) -> set[_Kind]:
    return {_kind(row.get(name)) for row in found.rows}


def _kind(value: Any) -> _Kind:
    if value is None or value == "":
        return "missing"
    if isinstance(value, str):
        return "integer" if _INTEGER.fullmatch(value) else "text" if _FLOAT.fullmatch(value) else "other"
    if isinstance(value, int) and not isinstance(value, bool):
        return "integer"
    return "float" if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT else "other"


def _integer(value: Any) -> Any:
    """Return a whole float as an integer, and its text without the decimal point."""
    if isinstance(value, float):
        return int(value)
    return value.removesuffix(".0") if isinstance(value, str) else value
