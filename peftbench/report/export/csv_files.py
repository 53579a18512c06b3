"""CSV: ``trials.csv``, ``steps.csv`` and ``examples.csv``. Texts are quoted; an empty field is null."""

from __future__ import annotations

from pathlib import Path

from peftbench.report.export import Written
from peftbench.report.export.runs import Exported
from peftbench.report.export.tables import arrow_tables


def write(results: Exported, output: Path) -> Written:
    """Write the three files, in place of those of an earlier export."""
    from pyarrow import csv

    from peftbench.results.store.files import replacing

    how = csv.WriteOptions(quoting_style="needed")
    for kind, table in arrow_tables(results).items():
        with replacing(output / f"{kind}.csv") as out:
            csv.write_csv(table, out, how)
    return Written(len(results.tables.trials))
