"""Notes above the page's table of settings: equal inputs, unequal settings, tensors that training did not change."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from peftbench.report.collect import Cell, Results
from peftbench.report.notes import unequal_settings


def notes(results: Results) -> Iterable[str]:
    """Yield whether all methods saw the same batches, what is not held equal, and unchanged trainable tensors."""
    ok = results.trials[results.trials["status"] == "ok"]
    batches = ok[ok["batches_sha256"].notna()].groupby("seed")["batches_sha256"].nunique()
    equal = all(len(results.distinct(name)) < 2 for name in ("base_sha256", "data_sha256"))
    if len(batches) and batches.max() == 1 and equal:
        yield "For each seed, every method saw the same examples in the same batches and order."
    yield from unequal_settings.notes(results) or (
        "All rows are equal in everything but the axes of the grid and what belongs to each method.",
    )
    for cell in results.finished:
        yield from _unchanged(cell)


def _unchanged(cell: Cell) -> Iterable[str]:
    names = sorted({str(name) for name in cell.ok["stalled_tensors"] if not pd.isna(name) and name})
    if names:
        yield f"{cell.name}: trainable tensors that training did not change: {'; '.join(names)}."
