"""Parquet: records with Python's values, read with pyarrow. No torch."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.tasks.formats.records import Records


def read(path: Path, data: bytes) -> Records:
    """Return the records of a Parquet file: null is None, integers stay integers, lists are lists.

    Raises:
        UserError: if two columns have one name.
        Exception: any other error of pyarrow.
    """
    import pyarrow.parquet

    table = pyarrow.parquet.ParquetFile(io.BytesIO(data)).read()
    names = table.column_names
    if len(set(names)) < len(names):
        raise UserError(f"{path}: two columns have the same name: {', '.join(names)}")
    columns = [_values(table.column(index)) for index in range(len(names))]
    return Records([dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)])


def _values(column: Any) -> list[Any]:
    """Return a column's values; a 16- or 32-bit number is the shortest decimal that stands for it."""
    import pyarrow

    if pyarrow.types.is_float32(column.type) or pyarrow.types.is_float16(column.type):
        import numpy

        kind = numpy.float32 if pyarrow.types.is_float32(column.type) else numpy.float16
        return [None if value is None else float(str(kind(value))) for value in column.to_pylist()]
    return list(column.to_pylist())
