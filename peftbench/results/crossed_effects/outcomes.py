"""Arrays of outcomes from stored rows: every seed of a cell on the same examples, in the same order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from peftbench.results.crossed_effects.model import LARGEST, Array, Outcomes

if TYPE_CHECKING:
    import pandas as pd

Key = tuple[str, str]
"""Base model and cell."""
_Stored = tuple[tuple[object, ...], Array]
"""What identifies the examples of a trial on a task, and their outcomes."""
_Layout = list[tuple[object, ...]]
"""What identifies the examples of each task."""
ROUNDING = 1e-6
"""Largest difference allowed between a trial's score and the mean of its outcomes."""


def by_cell(trials: pd.DataFrame, examples: pd.DataFrame, tasks: Sequence[str]) -> dict[Key, Outcomes]:
    """Return the outcomes of the ``ok`` trials of each cell; a cell of which they are incomplete is missing.

    Args:
        trials: see ``read``.
        examples: see ``read``.
        tasks: see ``read``.
    """
    found = read(trials, examples, tasks)
    return {key: one for key, one in found.items() if isinstance(one, Outcomes)}


def read(trials: pd.DataFrame, examples: pd.DataFrame, tasks: Sequence[str]) -> dict[Key, Outcomes | str]:
    """Return the outcomes of the ``ok`` trials of each cell, over one task or several, or why it has none.

    The rows of an array are in the order of the seeds. A cell has none if its outcomes are incomplete (a trial's
    examples are not stored, or differ from those of the first cell in position or target) or if a score is not the mean
    of its outcomes.

    Args:
        trials: the rows that a table is about.
        examples: one row per scored example, with the columns of ``records.ExampleRow``.
        tasks: tasks whose unweighted mean is the score.
    """
    stored = _by_trial(examples, set(tasks))
    ok = trials[trials["status"] == "ok"]
    layout: _Layout | None = None
    found: dict[Key, Outcomes | str] = {}
    for (base, cell), unsorted in ok.groupby(["base", "cell"], sort=False):
        rows = unsorted.sort_values("seed", kind="stable")
        one, own = _cell(rows, [[stored.get((key, task)) for task in tasks] for key in rows["key"]], tasks, layout)
        layout = layout or own
        found[str(base), str(cell)] = one
    return found


def _cell(
    rows: pd.DataFrame, table: Sequence[Sequence[_Stored | str | None]], tasks: Sequence[str], layout: _Layout | None
) -> tuple[Outcomes | str, _Layout | None]:
    """Return a cell's outcomes, or why it has none, and the layout of its examples if it is complete."""
    if not tasks:
        return "no task is scored", None
    for place in range(len(tasks)):
        for row in table:
            found = row[place]
            if not isinstance(found, tuple):
                return found or "a trial's examples are not stored", None
    complete = [[one for one in row if isinstance(one, tuple)] for row in table]
    if not _agree(rows, complete, tasks):
        return "a score is not the mean of the stored outcomes", None
    layouts = [[one[0] for one in row] for row in complete]
    own = layouts[0]
    if any(one != (layout or own) for one in layouts):
        return "its scored examples are not those of the other cells, or of its other seeds", None
    if min(map(len, own)) < 2:
        return "a task has fewer than two scored examples", None
    seedless = bool(rows["seed"].isna().all())
    if seedless and len(rows) > 1:
        return "it has several trials without a seed", None
    arrays = (np.stack([row[place][1] for row in complete]) for place in range(len(tasks)))
    return Outcomes.of(*arrays, seedless=seedless), own


def _by_trial(examples: pd.DataFrame, tasks: set[str]) -> Mapping[tuple[str, str], _Stored | str]:
    """Return, for each trial and task, what identifies its examples, and their outcomes; or why they are not usable."""
    if not len(examples):
        return {}
    ordered = examples[examples["task"].isin(tasks)].sort_values(["key", "task", "index"], kind="stable")
    found: dict[tuple[str, str], _Stored | str] = {}
    for (key, task), rows in ordered.groupby(["key", "task"], sort=False):
        outcomes = rows["outcome"].to_numpy(dtype=np.float64)
        if not (np.abs(outcomes) <= LARGEST).all():
            found[str(key), str(task)] = f"an outcome of {task} is not a finite number"
        elif rows["index"].duplicated().any():
            found[str(key), str(task)] = f"an example of {task} is stored twice for a trial"
        else:
            found[str(key), str(task)] = tuple(zip(rows["index"], rows["target"], strict=True)), outcomes
    return found


def _agree(rows: pd.DataFrame, complete: Sequence[Sequence[tuple[object, Array]]], tasks: Sequence[str]) -> bool:
    """Return whether every trial's scores are the means of its outcomes."""
    for place, task in enumerate(tasks):
        scores = rows[f"score_{task}"].to_numpy(dtype=np.float64, na_value=math.nan)
        means = np.asarray([row[place][1].mean() for row in complete])
        if not np.allclose(scores, means, rtol=0, atol=ROUNDING):
            return False
    return True
