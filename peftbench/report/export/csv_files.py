"""CSV: ``trials.csv``, ``steps.csv`` and ``examples.csv``. Texts are quoted; an empty field is null.

A text that a spreadsheet would take for a formula, and that is no number, has an apostrophe before it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.records.wording import no_formula
from peftbench.report.export import Written, refuse_to_replace
from peftbench.report.export.runs import Exported
from peftbench.report.export.tables import arrow_tables

if TYPE_CHECKING:
    import pyarrow as pa


def write(results: Exported, output: Path) -> Written:
    """Write the three files, in place of those of an earlier export.

    Raises:
        UserError: if there is a file of one of these names with other columns than a dataset of results.
    """
    from pyarrow import csv

    from peftbench.results.store.files import replacing

    tables = arrow_tables(results)
    for kind in tables:
        refuse_to_replace(output, [f"{kind}.csv"], _is_ours(output / f"{kind}.csv"))
    how = csv.WriteOptions(quoting_style="needed")
    for kind, table in tables.items():
        with replacing(output / f"{kind}.csv") as out:
            csv.write_csv(_without_formulas(table), out, how)
    return Written(len(results.tables.trials))


def _without_formulas(table: pa.Table) -> pa.Table:
    """Return a table whose texts no spreadsheet takes for formulas."""
    import pyarrow as pa
    from pyarrow import compute

    for place, field in enumerate(table.schema):
        if field.type == pa.string():
            values = table.column(place)
            if compute.any(compute.match_substring_regex(values, r"^[=+\-@\t\r]")).as_py():
                made = pa.array([no_formula(value) for value in values.to_pylist()], pa.string())
                table = table.set_column(place, field, made)
    return table


def _is_ours(path: Path) -> bool:
    """Whether a file begins with the key of a trial, as every dataset of an export does."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().replace('"', "").startswith("key,")
    except (OSError, ValueError):
        return False
