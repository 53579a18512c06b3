"""Parquet: records with Python's values, read with pyarrow. No torch."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.tasks.formats.content import check_size
from peftbench.tasks.formats.records import Records

_MOST_RECORDS = 20_000_000
_BATCH = 1024
"""Records that are decoded at once: the file may store a long value once for all of them."""
_OBJECT = 8
"""Bytes of a reference to a value."""


def read(path: Path, data: bytes) -> Records:
    """Return the records of a Parquet file: null is None, integers stay integers, lists are lists.

    Raises:
        UserError: if two columns have one name, or if its records are too large.
        Exception: any other error of pyarrow.
    """
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
    names = file.schema_arrow.names
    if len(set(names)) < len(names):
        raise UserError(f"{path}: two columns have the same name: {', '.join(names)}")
    if file.metadata.num_rows > _MOST_RECORDS:
        raise UserError(f"{path}: {file.metadata.num_rows:,} records; allowed: at most {_MOST_RECORDS:,}")
    rows: list[dict[str, Any]] = []
    size = 0
    for batch in file.iter_batches(_BATCH):
        size += sum(_bytes(column) for column in batch.columns)
        check_size(path, size)
        columns = [_values(batch.column(index)) for index in range(len(names))]
        rows += [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    return Records(rows)


def _bytes(column: Any) -> int:
    """Return about how many bytes a column's values take as Python's objects: more than Parquet stores of them."""
    import pyarrow
    from pyarrow import compute

    kind, own = column.type, _OBJECT * len(column)
    if isinstance(column, pyarrow.ExtensionArray):
        return _bytes(column.storage)
    if pyarrow.types.is_dictionary(kind):
        longest = _bytes(column.dictionary) // max(1, len(column.dictionary))
        return own + longest * len(column)
    if pyarrow.types.is_struct(kind):
        return own + sum(_bytes(each) for each in column.flatten())
    if pyarrow.types.is_map(kind):
        return own + _bytes(column.keys) + _bytes(column.items)
    if pyarrow.types.is_nested(kind):
        return own + _bytes(column.flatten())
    if pyarrow.types.is_null(kind) or not hasattr(column, "buffers"):
        return own
    if pyarrow.types.is_fixed_size_binary(kind):
        return own + kind.byte_width * len(column)
    texts = ("is_string", "is_binary", "is_large_string", "is_large_binary")
    if any(getattr(pyarrow.types, name)(kind) for name in texts):
        return own + (compute.sum(compute.binary_length(column)).as_py() or 0)
    return own + (column.nbytes if "view" in str(kind) else 0)


def _values(column: Any) -> list[Any]:
    """Return a column's values; a 16- or 32-bit number is the shortest decimal that stands for it."""
    import pyarrow

    if pyarrow.types.is_float32(column.type) or pyarrow.types.is_float16(column.type):
        import numpy

        kind = numpy.float32 if pyarrow.types.is_float32(column.type) else numpy.float16
        return [None if value is None else float(str(kind(value))) for value in column.to_pylist()]
    return list(column.to_pylist())
