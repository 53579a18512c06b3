"""The short comparison table: scores, size, memory and time of each cell in at most 100 columns."""

from __future__ import annotations

from dataclasses import replace

from peftbench.report.collect import MEAN, Results
from peftbench.report.derived.significance import significance
from peftbench.report.guarded import guarded
from peftbench.report.notes import brief as notes
from peftbench.report.notes import voids
from peftbench.report.tables import comparison, presented, writers
from peftbench.report.tables.presented import Choice
from peftbench.report.tables.table import Column, Table, Value

_HEADS = {"trainable_parameters": "trainable\nparams"}
"""Columns with a longer head than in the whole table."""
_COSTS = ("trainable_parameters", "peak_train_bytes_mean", "peak_run_reserved_bytes_mean", "train_seconds_mean")
_NEARNESS = "probability_within_"


def text(results: Results, choice: Choice | None = None, all_notes: bool = False) -> str:
    """Return the table as text, the best cell first, after one line for each thing that makes its numbers void.

    Only the mean over tasks is shown if all scores do not fit. Names are wrapped if necessary.

    Args:
        results: what is reported.
        choice: other columns, or another order of the rows.
        all_notes: whether all notes stand under it in place of three.
    """
    choice = choice or Choice()
    whole = table(results, choice)
    if not choice.columns and len(results.tasks) > 1 and _width(whole) > notes.WIDTH:
        whole = table(results, choice, tasks=False)
    if all_notes:
        whole = replace(whole, notes=presented.with_names(comparison.table(results), results).notes)
    void = guarded("what makes numbers void", lambda: voids.warnings(results), lambda note: (note,))
    widest_head = 2 * writers.WIDEST_HEAD if choice.columns else writers.WIDEST_HEAD
    return "".join(f"{line}\n" for line in void) + writers.write_text(whole, notes.WIDTH, widest_head)


def table(results: Results, choice: Choice | None = None, tasks: bool = True) -> Table:
    """Return the columns that decide.

    They are cell, scores, nearness to the best, trainable parameters, peak memory, train time and seeds.

    Args:
        results: what is reported.
        choice: other columns, or another order of the rows than by the mean score.
        tasks: whether to show each task's score beside the mean over tasks.
    """
    known, choice = significance(results), choice or Choice()
    ordered = choice if choice.sort or not results.tasks else replace(choice, sort=presented.SCORE)
    full = presented.presented(comparison.without_notes(results, known), results, ordered)
    said: tuple[str, ...] = guarded("the notes", lambda: notes.notes(results, known), lambda note: (note,))
    if choice.columns:
        return replace(full, notes=said)
    shown = [place for place, column in enumerate(full.columns) if _is_shown(column, results, tasks)]
    columns = tuple(replace(c, short=_head(c)) for c in (full.columns[i] for i in shown))
    rows = [replace(row, values=tuple(_short(row.values[i], full.columns[i]) for i in shown)) for row in full.rows]
    return Table(columns, tuple(rows), said)


def _head(column: Column) -> str | None:
    """Return a column's head over two lines; None for a column that is not shown."""
    if column.raw[0].startswith(_NEARNESS):
        return f"{column.title}, %".replace("(within ", "(within\n")
    if column.raw[0] == "peak_run_reserved_bytes_mean":
        return f"reserved, whole\nrun {column.unit}"
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
