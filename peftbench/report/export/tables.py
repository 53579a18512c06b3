"""The exported rows as Arrow tables with the store's schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftbench.report.export.runs import Exported

if TYPE_CHECKING:
    import pyarrow as pa


def arrow_tables(results: Exported) -> dict[str, pa.Table]:
    """Return the three datasets by name, with the store's columns, types, meanings and units."""
    import pyarrow as pa

    from peftbench.results.store.schema import KINDS, schema, tasks_of

    found = {}
    for kind in sorted(KINDS, reverse=True):
        frame = getattr(results.tables, kind)
        wanted = schema(kind, tasks_of(pa.schema([(str(name), pa.null()) for name in frame.columns])))
        # NaN stands for null in a column that can be null, and was measured in one that cannot
        arrays = [pa.array(frame[f.name], f.type, from_pandas=f.nullable) for f in wanted]
        found[kind] = pa.Table.from_arrays(arrays, schema=wanted)
    return found
