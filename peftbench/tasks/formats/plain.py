"""Records of any source in the same plain values: None for what is missing, integers, text, lists, dicts. No torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from peftbench.tasks.formats.records import Records

_SIMPLE = (str, int, bool, type(None))


def plain(found: Records) -> Records:
    """Return records whose values mean the same in every format, with notes on what was changed.

    NaN is None; a map is a dict; bytes that are UTF-8 in all of a column are text.
    """
    if not all(isinstance(row, dict) for row in found.rows):
        return found  # reported by the caller, with the place
    names = dict.fromkeys(name for row in found.rows for name in row)
    rows = [{name: _value(value) for name, value in row.items()} for row in found.rows]
    decoded = []
    for name in names:
        values = [row.get(name) for row in rows]
        if _are_utf8(values):
            for row in rows:
                if row.get(name) is not None:
                    row[name] = row[name].decode()
            decoded.append(repr(name))
    notes = list(found.notes)
    if decoded:
        notes.append(f"bytes are read as UTF-8 text: {', '.join(decoded)}")
    return Records(rows, found.lines, tuple(notes))


def _value(value: Any) -> Any:
    if type(value) in _SIMPLE:
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, dict):
        return {key: _value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(item, tuple) and len(item) == 2 for item in value):  # a map of Parquet
            return {str(key): _value(item) for key, item in value}
        return [_value(item) for item in value]
    if type(value).__name__ == "NaTType":
        return None
    return value


def _are_utf8(values: Sequence[Any]) -> bool:
    given = [value for value in values if value is not None]
    if not given or not all(isinstance(value, bytes) for value in given):
        return False
    try:
        for value in given:
            value.decode()
    except UnicodeDecodeError:
        return False
    return True
