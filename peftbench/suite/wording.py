"""Texts for error messages about settings: what was given, what a type allows, the nearest right name."""

from __future__ import annotations

from collections.abc import Iterable
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from peftbench.errors import nearest, unknown

_KINDS: dict[Any, str] = {
    str: "text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    NoneType: "null",
    dict: "a mapping",
    list: "a list",
    Any: "anything",
}
_LIMITS = (("ge", "at least"), ("gt", "above"), ("le", "at most"), ("lt", "below"))


def describe_value(value: Any) -> str:
    """Return a value as messages show it, with its type: ``'abc' (text)``."""
    if value is None:
        return "nothing (null)"
    kind = "a boolean" if isinstance(value, bool) else _KINDS.get(type(value), type(value).__name__)
    text = repr(str(value) if isinstance(value, str) else value)
    shown = text if len(text) <= 60 else f"{text[:57]}..."
    return f"{shown} ({'text' if isinstance(value, str) else kind})"


def describe_type(kind: Any) -> str:
    """Return what a type allows: ``a whole number, at least 1``."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return describe_field(arguments[0], arguments[1:])
    if origin is Literal:
        return ", ".join(str(a) for a in arguments)
    if origin in (Union, UnionType):
        kinds = [describe_type(a) for a in arguments]
        return (", or " if any(", " in kind for kind in kinds) else " or ").join(kinds)
    if origin is list and arguments:
        return f"a list of {describe_type(arguments[0])}"
    return _KINDS.get(origin or kind, getattr(kind, "__name__", str(kind)))


def describe_field(kind: Any, metadata: Iterable[Any]) -> str:
    """Return what a type with pydantic's metadata allows: the description of its ``Field``, else type and limits."""
    flat: list[Any] = []
    for item in metadata:
        if isinstance(item, FieldInfo) and item.description:
            return item.description
        flat += item.metadata if isinstance(item, FieldInfo) else [item]
    limits = [
        f"{text} {getattr(item, name)}"
        for item in flat
        for name, text in _LIMITS
        if getattr(item, name, None) is not None
    ]
    return ", ".join([describe_type(kind), *limits])


def literals(kind: Any) -> list[str]:
    """Return the names that a ``Literal`` type allows; empty for any other type."""
    kind = without_null(kind)
    return [str(a) for a in get_args(kind)] if get_origin(kind) is Literal else []


def without_null(kind: Any) -> Any:
    """Return X for ``X | None`` and for an annotated X; any other type unchanged."""
    if get_origin(kind) is Annotated:
        return without_null(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        parts = [a for a in get_args(kind) if a is not NoneType]
        return without_null(parts[0]) if len(parts) == 1 else kind
    return kind


def _parts(kind: Any) -> tuple[Any, ...]:
    """Return the alternatives of a type without null; the type alone if there is one."""
    kind = without_null(kind)
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def mismatch(name: str, given: Any, kind: Any, allowed: str) -> str:
    """Return the message about a value that its type does not allow."""
    names = literals(kind)
    if names and isinstance(given, str):
        return unknown(name, str(given), names)
    text = f"given {describe_value(given)}; allowed: {allowed}"
    if without_null(kind) is str and isinstance(given, bool | int | float):
        return f"{text} (write it in quotes)"
    parts = _parts(kind)
    if bool in parts and isinstance(given, str):
        guess = {"yes": "true", "on": "true", "no": "false", "off": "false"}.get(given.lower())
        guess = guess or nearest(given, ("true", "false", *(name for part in parts for name in literals(part))))
        return f"{text}; did you mean {guess}?" if guess else text
    return text
