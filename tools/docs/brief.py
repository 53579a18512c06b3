"""The short table of README.md: at most 100 columns wide, with notes of at most three lines."""

from __future__ import annotations

from pathlib import Path

from peftbench import report
from peftbench.report import collect
from peftbench.report.tables import comparison, writers
from peftbench.report.tables.table import Row, Table

SHOWN = ("cell", "mean", "trainable parameters", "base weights", "peak train memory", "train time", "n")
NOTE = (
    "Means over n seeds, ± their standard deviation. *: not significantly different from the best of the column "
    "(Holm-adjusted p ≥ 0.05, for new seeds and examples). base: frozen weights; peak: of a training step."
)


def table(folder: Path) -> str:
    """Return ``report.table(folder, "brief")``; until that exists, a table with the same purpose made here."""
    if "brief" in report.FORMATS:
        return report.table(folder, "brief")
    results = collect.collect(folder)
    whole = comparison.table(results)
    places = [
        i for i, c in enumerate(whole.columns) if c.title in (*SHOWN, collect.MEAN) or (c.unit == "%" and c.short)
    ]
    rows = [Row(tuple(row.values[i] for i in places), row.cell) for row in whole.rows]
    return writers.write(Table(tuple(whole.columns[i] for i in places), tuple(rows), (NOTE,)), "text")
