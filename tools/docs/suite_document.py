"""The tables of ``docs/suite.md``: every key of a suite file with what is allowed, its default and its meaning.

Types, limits and defaults come from ``peftbench.suite.schema`` and from the records of the methods, meanings from
``peftbench.suite.meanings``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from peftbench.methods import METHODS
from peftbench.methods.record import Setting, shown
from peftbench.models import builtin
from peftbench.suite import meanings, schema, watch
from peftbench.suite.meanings import Meaning
from peftbench.suite.wording import describe_field, describe_type

BLOCKS: Mapping[str, tuple[type[schema.Strict], Mapping[str, Meaning]]] = {
    "top level": (schema.SuiteFile, meanings.SUITE),
    "base": (schema.BaseBlock, meanings.BASE),
    "task": (schema.TaskBlock, meanings.TASK),
    "evaluate": (schema.EvaluateBlock, meanings.EVALUATE),
    "retention": (schema.RetentionBlock, meanings.RETENTION),
    "time limit": (schema.TimeoutBlock, meanings.TIMEOUTS),
    "search": (schema.SearchBlock, meanings.SEARCH),
    "devices": (schema.DevicesBlock, meanings.DEVICES),
    "match": (schema.MatchBlock, meanings.MATCH),
    "watch": (watch.WatchBlock, meanings.WATCH),
    "trainable parameters": (schema.MeasureBlock, meanings.MEASURE),
}
"""Each block of a suite that is one pydantic model, by the name of its table's marker."""
NONE = "–"


def block(name: str) -> str:
    """Return the table of one of ``BLOCKS``."""
    model, texts = BLOCKS[name]
    return table(
        (f"`{key}`", _allowed(field), _default(field, texts[key]), texts[key].text)
        for key, field in model.model_fields.items()
    )


def train() -> str:
    """Return the table of ``train:``."""
    data = ("`data`", "a mapping", meanings.DATA.default or NONE, meanings.DATA.text)
    return table([data, *((f"`{key}`", *_setting(setting)) for key, setting in schema.TRAIN.items())])


def method_blocks() -> str:
    """Return the table of what each method's block takes beside precision and the training settings."""
    rows = []
    for method in METHODS.own.values():
        settings = schema.method_settings(method)
        rank = settings.get(method.rank_key)
        size = NONE if rank is None else f"`{method.rank_key}`: {rank.doc}" + _by_default(rank.default)
        recipe = ", ".join(f"`{key}: {shown(value)}`" for key, value in method.training.items())
        options = ", ".join(f"`{key}`" for key in method.options)
        rows.append((f"`{method.name}`", method.default_precision, size, recipe or NONE, options or NONE))
    return table(rows, ("method", "default precision", "rank", "recipe", "options"))


def shapes() -> str:
    """Return the names of the shapes that come with peftbench."""
    return ", ".join(f"`{name}`" for name in builtin.SHAPES) + "."


def table(rows: Iterable[tuple[str, ...]], head: tuple[str, ...] = ("key", "allowed", "default", "meaning")) -> str:
    """Return a Markdown table."""
    lines = [head, ("---",) * len(head), *(tuple(cell.replace("|", "\\|") for cell in row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _by_default(value: Any) -> str:
    return "" if value is None else f", {shown(value)} by default"


def _setting(setting: Setting) -> tuple[str, str, str]:
    kinds = _kinds(setting.type, setting.default)
    return (
        " or ".join(map(describe_type, kinds)),
        NONE if setting.default is None else shown(setting.default),
        setting.doc,
    )


def _allowed(field: FieldInfo) -> str:
    if field.description:
        return field.description
    if any(isinstance(item, BeforeValidator) for item in field.metadata):
        return f"{describe_type(get_args(field.annotation)[0])}; or a list of them"
    if field.annotation is Any:
        return "a mapping"
    return " or ".join(describe_field(kind, field.metadata) for kind in _kinds(field.annotation, field.default))


def _kinds(kind: Any, default: Any) -> list[Any]:
    """Return the alternatives of a type; a null that only says that nothing was given is left out."""
    if not isinstance(kind, UnionType) and get_origin(kind) is not Union:
        return [kind]
    return [each for each in get_args(kind) if each is not NoneType or default is not None]


def _default(field: FieldInfo, meaning: Meaning) -> str:
    if meaning.default is not None:
        return meaning.default
    if field.is_required():
        return "required"
    return NONE if field.default in (None, [], {}) else shown(field.default)
