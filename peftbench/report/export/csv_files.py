"""CSV: ``trials.csv``, ``steps.csv`` and ``examples.csv``. Texts are quoted; an empty field is null."""

from __future__ import annotations

from pathlib import Path

from peftbench.report.export import Written, refuse_to_replace
from peftbench.report.export.runs import Exported
from peftbench.report.export.tables import arrow_tables


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
            csv.write_csv(table, out, how)
    return Written(len(results.tables.trials))


def _is_ours(path: Path) -> bool:
    """Whether a file begins with the key of a trial, as every dataset of an export does."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().replace('"', "").startswith("key,")
    except (OSError, ValueError):
        return False
