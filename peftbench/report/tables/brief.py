"""The short comparison table: scores, size, memory and time of each cell in at most 100 columns."""

from __future__ import annotations

from dataclasses import replace

from peftbench.report.collect import MEAN, Results
from peftbench.report.derived.significance import significance
from peftbench.report.guarded import guarded
from peftbench.report.notes import brief as notes
from peftbench.report.tables import comparison, writers
from peftbench.report.tables.table import Column, Table, Value

_HEADS = {"trainable_parameters": "trainable\nparams"}
"""Columns with a longer head than in the whole table."""
_COSTS = ("trainable_parameters", "peak_train_bytes_mean", "train_seconds_mean")
_NEARNESS = "probability_within_"


def text(results: Results) -> str:
    """Return the table as text; only the mean over tasks if all scores do not fit. Names are wrapped if necessary."""
    whole = table(results)
    if len(results.tasks) > 1 and _width(whole) > notes.WIDTH:
        whole = table(results, tasks=False)
    return writers.write_text(whole, notes.WIDTH)


def table(results: Results, tasks: bool = True) -> Table:
    """Return the columns that decide.

    They are cell, scores, nearness to the best, trainable parameters, peak memory, train time and seeds.

    Args:
        results: what is reported.
        tasks: whether to show each task's score beside the mean over tasks.
    """
    known = significance(results)
    full = comparison.without_notes(results, known)
    shown = [place for place, column in enumerate(full.columns) if _is_shown(column, results, tasks)]
    columns = tuple(replace(c, short=_head(c)) for c in (full.columns[i] for i in shown))
    rows = [replace(row, values=tuple(_short(row.values[i], full.columns[i]) for i in shown)) for row in full.rows]
    said: tuple[str, ...] = guarded("the notes", lambda: notes.notes(results, known), lambda note: (note,))
    return Table(columns, tuple(rows), said)


def _head(column: Column) -> str | None:
    """Return a column's head over two lines; None for a column that is not shown."""
    if column.raw[0].startswith(_NEARNESS):
        return f"{column.title}, %".replace("(within ", "(within\n")
    return _HEADS.get(column.raw[0], column.short)


def _is_shown(column: Column, results: Results, tasks: bool) -> bool:
    if column.unit == "%" and column.raw[0].startswith("score_"):
        return tasks or column.title == MEAN
    return column.raw[0] in ("cell", "seeds_ok", *_COSTS) or column.raw[0].startswith(_NEARNESS)


def _short(value: Value, column: Column) -> Value:
    """Return an entry; the spread of the train time is left out."""
    text = value.text if value.short is None else value.short
    return replace(value, short=text.partition("±")[0]) if column.raw[0] == "train_seconds_mean" else value


def _width(whole: Table) -> int:
    """Return the width of a table with unlimited lines."""
    lines = writers.write_text(whole).splitlines()
    return next(len(line) for line in lines if line.startswith("─"))
