"""JSON: a list of objects, or one object per line, each record with its line. No torch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.tasks.formats.records import Records

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder(parse_constant=lambda name: None if name == "NaN" else float(name))
"""NaN, which is not JSON but which pandas and others write, is null."""
_SHOWN = 5


def read(path: Path, text: str, lines: bool) -> Records:
    """Return the records of a JSON file.

    Args:
        path: the file, for messages.
        text: its text.
        lines: whether its name says that it has one record per line; a file that is otherwise is read with a note.

    Raises:
        UserError: if it is not JSON (with the line), or neither a list nor lines of records.
    """
    start = text.lstrip()[:1]
    try:
        if lines and start == "[":
            return _read_list_in_lines(path, text)
        return _read_lines(path, text) if lines else _read_whole(path, text)
    except RecursionError:
        raise UserError(f"{path}: its JSON is nested too deeply") from None


def _read_list_in_lines(path: Path, text: str) -> Records:
    """Return the records of a file of lines whose first line begins a list: a list, unless it does not end as one."""
    try:
        found = _read_list(path, text)
    except UserError:
        return _read_lines(path, text)
    if len(found.rows) == 1 or text.strip().count("\n") == 0 or isinstance(next(iter(found.rows), {}), dict):
        return Records(found.rows, found.lines, ("a JSON list, and not one record per line",))
    return _read_lines(path, text)


def _read_whole(path: Path, text: str) -> Records:
    start = _SPACE.match(text).end()  # type: ignore[union-attr]
    if text[start : start + 1] == "[":
        return _read_list(path, text)
    value, end = _value(path, text, start)
    if isinstance(value, dict) and text[end:].strip():
        found = _read_lines(path, text)
        return Records(found.rows, found.lines, ("one JSON record per line",))
    raise UserError(f"{path}: expected a JSON list of objects, got {type(value).__name__}{_hint(value)}")


def _hint(value: Any) -> str:
    """Return what an object that is no list of records seems to be."""
    if not isinstance(value, dict):
        return ""
    if value and all(isinstance(column, dict) for column in value.values()):
        return "; pandas writes records with to_json(orient='records')"
    lists = [f"{key!r}" for key, item in value.items() if isinstance(item, list)]
    within = f"; the list itself must be the file ({', '.join(lists[:_SHOWN])})" if lists else ""
    return within or "; a file with one record per line is named .jsonl"


def _read_list(path: Path, text: str) -> Records:
    """Return the items of a JSON list one by one, so that each has its line."""
    rows: list[Any] = []
    numbers: list[int] = []
    at = _SPACE.match(text).end() + 1  # type: ignore[union-attr]
    line, counted = 1, 0
    while True:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        if text[at : at + 1] == "]" and not rows:
            break
        value, end = _value(path, text, at)
        line, counted = line + text.count("\n", counted, at), at
        rows.append(value)
        numbers.append(line)
        at = _SPACE.match(text, end).end()  # type: ignore[union-attr]
        if text[at : at + 1] == "]":
            break
        if text[at : at + 1] != ",":
            raise _wrong(path, text, at, "expected ',' or ']'")
        at += 1
    rest = _SPACE.match(text, at + 1).end()  # type: ignore[union-attr]
    if rest < len(text):
        raise _wrong(path, text, rest, "expected nothing after the list")
    return Records(rows, numbers)


def _value(path: Path, text: str, at: int) -> tuple[Any, int]:
    """Return the JSON value that begins at a character, and where it ends."""
    try:
        return _DECODER.raw_decode(text, at)
    except json.JSONDecodeError as error:
        raise _wrong(path, text, error.pos, error.msg) from None
    except ValueError as error:  # a number of thousands of digits
        raise _wrong(path, text, at, str(error)) from None


def _wrong(path: Path, text: str, at: int, why: str) -> UserError:
    line, column = text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)
    return UserError(f"{path}, line {line}: cannot be read as json: {why} (column {column})")


def _read_lines(path: Path, text: str) -> Records:
    """Return one record per line that is not blank."""
    rows: list[Any] = []
    numbers: list[int] = []
    # not splitlines, which also splits at U+2028 and other characters that JSON strings may contain
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            rows.append(_DECODER.decode(line))
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not JSON: {error.msg} (column {error.colno})") from None
        except ValueError as error:
            raise UserError(f"{path}, line {number}: not JSON: {error}") from None
        except RecursionError:
            raise UserError(f"{path}, line {number}: its JSON is nested too deeply") from None
        numbers.append(number)
    return Records(rows, numbers)
