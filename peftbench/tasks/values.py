"""Values of a record as templates see them: what is no text refuses to become part of one, and says which field it is.

Jinja writes None, lists and mappings into a text as Python prints them. Templates see None as ``Null``, which is false,
equal to none and not printable; lists and mappings are ``Items`` and ``Fields``, which can be used as before and are
not printable either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, NoReturn
from uuid import UUID

WHOLE = "row"
"""The name under which a template sees the whole record."""
_CONSTANTS = ("true", "false", "none", "True", "False", "None")
_RESERVED = (WHOLE, "self", "loop", "caller", "and", "or", "not", "in", "is", "if", "else", *_CONSTANTS)
"""Words that mean something else in a template."""


class NotText(Exception):
    """A value that is no text was to become part of a text. The message names the field.

    Args:
        message: what the value is, and how a template can handle it.
        value: the value, if an expression of the template gave it as a whole.
        null: the field as a template writes it, if its value is missing.
    """

    def __init__(self, message: str, value: Any = None, null: str | None = None) -> None:
        super().__init__(message)
        self.value = value
        self.null = null


class Null:
    """A missing value of a field."""

    __slots__ = ("field",)

    def __init__(self, field: str) -> None:
        self.field = field

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, Null)

    def __hash__(self) -> int:
        return hash(None)

    def __str__(self) -> NoReturn:
        raise NotText(
            f"the field {self.field} is null, and null is no text; leave the example out, or handle it in the "
            f"template: {{{{ {self.field} or '' }}}}",
            null=self.field,
        )

    __repr__ = __str__

    def __format__(self, _: str) -> NoReturn:
        str(self)
        raise AssertionError


class Items(list[Any]):
    """A list of a field."""

    field = ""

    def __str__(self) -> NoReturn:
        raise NotText(f"{self.field} is a list, and a list is no text; use | join(', ') or | tojson")

    __repr__ = __str__

    def __format__(self, _: str) -> NoReturn:
        str(self)
        raise AssertionError


class Fields(dict[str, Any]):
    """A mapping of a field, or the whole record."""

    field = ""

    def __str__(self) -> NoReturn:
        raise NotText(f"{self.field} is a mapping, and a mapping is no text; use one of its keys, or | tojson")

    __repr__ = __str__

    def __format__(self, _: str) -> NoReturn:
        str(self)
        raise AssertionError


def context(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a template sees of a record: its fields by name, and the whole record as ``row``."""
    seen = {name: _seen(value, written(name)) for name, value in row.items()}
    whole = Fields(seen)
    whole.field = f"`{WHOLE}`, the whole record,"
    return {**seen, WHOLE: whole}


def _seen(value: Any, path: str) -> Any:
    if isinstance(value, str):
        return value
    if value is None:
        return Null(path)
    if isinstance(value, dict):
        fields = Fields({key: _seen(item, f"{path}.{shown(key)}") for key, item in value.items()})
        fields.field = f"the field {path}"
        return fields
    if isinstance(value, list):
        items = Items(_seen(item, f"{path}[{index}]") for index, item in enumerate(value))
        items.field = f"the field {path}"
        return items
    return value


def written(name: object) -> str:
    """Return a column's name as a template writes it: ``label``, or ``row['Class Index']``."""
    plain = shown(name)
    return plain if plain.isidentifier() and plain not in _RESERVED else f"{WHOLE}[{plain!r}]"


def shown(name: object) -> str:
    """Return a name that can be printed: half a surrogate pair is written as its escape."""
    return str(name).encode("utf-8", "backslashreplace").decode()


def text(value: Any) -> Any:
    """Return a value of an expression as text; a value that Jinja cannot find is returned for its own error.

    Numbers are written as Python does, dates as in ISO 8601 with a space, decimals without an exponent.

    Raises:
        NotText: if it is null, a list, a mapping, bytes, a number that is not finite, or an object of Python.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotText(f"an expression gives {value}, which is no number")
        return str(value)
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, (int, date, time, timedelta, UUID)):
        return str(value)
    if isinstance(value, (Items, Fields, Null)):
        try:
            return str(value)
        except NotText as error:
            raise NotText(str(error), value, error.null) from None
    from jinja2 import Undefined

    if isinstance(value, Undefined):
        return value
    kinds = {type(None): "null", list: "a list", tuple: "a list", dict: "a mapping", bytes: "bytes"}
    what = kinds.get(type(value), f"{type(value).__name__}, an object")
    if callable(value):
        what = "a method; a field of the same name is written row['NAME']"
    raise NotText(f"an expression gives {what}, and that is no text", value)
