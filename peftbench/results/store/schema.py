"""The columns of the three datasets, derived from the annotations of the records, which declare each column once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType, NoneType
from typing import Any, get_args, get_type_hints

import pyarrow as pa

from peftbench.errors import UserError
from peftbench.records import SCHEMA_VERSION, ExampleRow, Score, StepRow, TrialRow
from peftbench.results.store.column_units import unit_of

KINDS: Mapping[str, Any] = MappingProxyType({"examples": ExampleRow, "steps": StepRow, "trials": TrialRow})
"""Record of each dataset's rows, in the order of writing: the trial's own row comes last."""

KIND_KEY = b"peftbench.kind"
VERSION_KEY = b"peftbench.schema_version"
PANDAS_KEY = b"pandas"
TYPES = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}

SCORE_COLUMNS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "score_{task}": ("value", "headline metric of the task, a fraction of 1"),
        "score_{task}_standard_error": ("standard_error", "of that score over examples; null if it has none"),
        "chance_{task}": ("chance", "expected score of a uniform guess; null if it is not defined"),
        "majority_{task}": (
            "majority",
            "score of always giving the most frequent answer of the scored split (majority baseline)",
        ),
    }
)
"""Columns that each evaluated task adds to ``trials``: the field of its Score, and the meaning."""


@dataclass(frozen=True)
class Column:
    """One stored column."""

    name: str
    type: pa.DataType
    nullable: bool
    doc: str
    """Meaning."""

    @property
    def unit(self) -> str:
        """The unit of its values."""
        return unit_of(self.name, self.type)

    def field(self) -> pa.Field:
        """Return the column as an Arrow field with its meaning and unit as metadata."""
        return pa.field(self.name, self.type, self.nullable, {"doc": self.doc, "unit": self.unit})


@cache
def columns(kind: str) -> tuple[Column, ...]:
    """Return the fixed columns of a dataset, in the order of the record's fields."""
    found = []
    for name, hint in get_type_hints(KINDS[kind], include_extras=True).items():
        type_, doc = get_args(hint)
        kinds = [part for part in get_args(type_) or (type_,) if part is not NoneType]
        found.append(Column(name, TYPES[kinds[0]], NoneType in get_args(type_), doc))
    return tuple(found)


def score_columns(tasks: Iterable[str]) -> tuple[Column, ...]:
    """Return the columns that evaluated tasks add to ``trials``, in the order given, which is the suite's.

    Raises:
        UserError: if two tasks would have a column of the same name.
    """
    found: dict[str, Column] = {}
    for task in dict.fromkeys(tasks):
        for name, (_, doc) in SCORE_COLUMNS.items():
            column = Column(name.format(task=task), pa.float64(), True, doc)
            if found.setdefault(column.name, column) is not column:
                raise UserError(f"two tasks share the column {column.name!r}: rename task {task!r}")
    return tuple(found.values())


def schema(kind: str, tasks: Iterable[str] = ()) -> pa.Schema:
    """Return the Arrow schema of a dataset. Only that of ``trials`` depends on the evaluated tasks."""
    extra = score_columns(tasks) if kind == "trials" else ()
    metadata = {KIND_KEY: kind.encode(), VERSION_KEY: str(SCHEMA_VERSION).encode(), PANDAS_KEY: _pandas_types(kind)}
    return pa.schema([column.field() for column in (*columns(kind), *extra)], metadata)


@cache
def _pandas_types(kind: str) -> bytes:
    """Return the metadata by which pandas reads integers and booleans that can be null as ``Int64`` and ``boolean``.

    Without it they become floats and objects. The columns of scores are floats and need no entry, so the text is the
    same for every folder.
    """
    nullable = {pa.int64(): ("int64", "Int64"), pa.bool_(): ("bool", "boolean")}
    listed = [
        {
            "name": column.name,
            "field_name": column.name,
            "pandas_type": nullable[column.type][0],
            "numpy_type": nullable[column.type][1],
            "metadata": None,
        }
        for column in columns(kind)
        if column.nullable and column.type in nullable
    ]
    return json.dumps({"index_columns": [], "column_indexes": [], "columns": listed}).encode()


def tasks_of(stored: pa.Schema) -> list[str]:
    """Return the tasks that a schema of ``trials`` has score columns for."""
    scores = [name for name in stored.names if name.startswith("score_")]
    errors = {f"{name}_standard_error" for name in scores}
    chances = [name.removeprefix("chance_") for name in stored.names if name.startswith("chance_")]
    return list(dict.fromkeys([*chances, *(name.removeprefix("score_") for name in scores if name not in errors)]))


def table(kind: str, rows: Iterable[Mapping[str, Any]], tasks: Iterable[str] = ()) -> pa.Table:
    """Return rows as a table with the dataset's schema; columns that a row does not have are null."""
    wanted, listed = schema(kind, tasks), list(rows)
    arrays = [_array([row.get(field.name) for row in listed], field.type) for field in wanted]
    return pa.Table.from_arrays(arrays, schema=wanted)


def scores_of(scores: Iterable[Score]) -> dict[str, float | None]:
    """Return the values of the score columns of one trial."""
    return {
        name.format(task=score.task): getattr(score, field)
        for score in scores
        for name, (field, _) in SCORE_COLUMNS.items()
    }


def conform(found: pa.Table, wanted: pa.Schema, where: str = "a table") -> pa.Table:
    """Return a table with the wanted columns first, null if missing, and its other columns after them.

    Args:
        found: the table as it is stored.
        wanted: the dataset's schema.
        where: the file, for messages.

    Raises:
        UserError: if two columns have one name, a column has values of another type, or one that always has a value
            lacks some.
    """
    names = found.column_names
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise UserError(f"{where} has the column {twice!r} twice: move the file away")
    for field in wanted:
        if field.name in names:
            missing = found.column(field.name).null_count
        else:  # older versions of the schema lack columns of text, which ``older_rows`` fills
            missing = found.num_rows if field.type in (pa.int64(), pa.bool_()) else 0
        if missing and not field.nullable:
            raise UserError(f"{where}: the column {field.name!r} has no value in some rows: move the file away")
    if found.schema.equals(wanted):
        return found.replace_schema_metadata(wanted.metadata)
    extra = [field for field in found.schema if field.name not in wanted.names]
    target = pa.schema([*wanted, *extra], wanted.metadata)
    stored = dict(zip(found.column_names, found.columns, strict=True))
    arrays = [
        _cast(stored[field.name], field, where) if field.name in stored else pa.nulls(found.num_rows, field.type)
        for field in target
    ]
    return pa.Table.from_arrays(arrays, schema=target)


def _cast(column: pa.ChunkedArray, field: pa.Field, where: str) -> pa.ChunkedArray:
    try:
        return column.cast(field.type)
    except pa.ArrowException:
        raise UserError(
            f"{where}: the column {field.name!r} holds {column.type}, expected {field.type}: move the file away"
        ) from None


def _array(values: list[Any], type_: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, type_)
    except UnicodeEncodeError:  # a lone surrogate in someone's JSON: written as \udXXX rather than losing the trial
        texts = [v if v is None else v.encode("utf-8", "backslashreplace").decode() for v in values]
        return pa.array(texts, type_)
