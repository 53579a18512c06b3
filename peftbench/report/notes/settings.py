"""Notes above the page's table of settings: equal inputs, unequal settings, unchanged tensors, dtypes of the base."""

from __future__ import annotations

from collections.abc import Iterable

from peftbench.models.precision import PRECISIONS
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
    yield from _in_float32(results)


def _in_float32(results: Results) -> Iterable[str]:
    """Yield which base models have weights in float32 in a precision with another dtype."""
    found = []
    for cell in results.finished:
        precision = PRECISIONS.get(cell.precision)
        if precision is None or cell.record is None or precision.base_weights(cell.record.trains_base) == "float32":
            continue
        for base, dtypes in ((row["base"], row["loaded_dtypes"]) for row in cell.ok_rows):
            if "float32" in str(dtypes):
                where = f"{base} in {cell.precision}"
                found.append(f"{where}: its own code keeps some weights in float32 (loaded: {dtypes}).")
    yield from dict.fromkeys(found)


def _unchanged(cell: Cell) -> Iterable[str]:
    names = sorted(set(filter(None, cell.texts("stalled_tensors"))))
    if names:
        yield f"{cell.name}: trainable tensors that training did not change: {'; '.join(names)}."
