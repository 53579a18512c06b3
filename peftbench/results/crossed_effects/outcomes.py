"""Arrays of outcomes from stored rows: every seed of a cell on the same examples, in the same order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from peftbench.results.crossed_effects.model import Array, Outcomes

if TYPE_CHECKING:
    import pandas as pd

Key = tuple[str, str]
"""Base model and cell."""
ROUNDING = 1e-6
"""Largest difference allowed between a trial's score and the mean of its outcomes."""


def by_cell(trials: pd.DataFrame, examples: pd.DataFrame, tasks: Sequence[str]) -> dict[Key, Outcomes]:
    """Return the outcomes of the ``ok`` trials of each cell, over one task or several.

    The rows of an array are in the order of the seeds. A cell is excluded if its outcomes are incomplete (a trial's
    examples are not stored, or differ from those of the first cell in position or target) or if a score is not the mean
    of its outcomes.

    Args:
        trials: the rows that a table is about.
        examples: one row per scored example, with the columns of ``records.ExampleRow``.
        tasks: tasks whose unweighted mean is the score.
    """
    stored = _by_trial(examples, set(tasks))
    ok = trials[trials["status"] == "ok"]
    layout: list[tuple[object, ...]] | None = None
    found: dict[Key, Outcomes] = {}
    for (base, cell), unsorted in ok.groupby(["base", "cell"], sort=False):
        rows = unsorted.sort_values("seed", kind="stable")
        table = [[stored.get((key, task)) for task in tasks] for key in rows["key"]]
        complete = [[one for one in row if one is not None] for row in table]
        if not tasks or any(len(row) < len(tasks) for row in complete) or not _agree(rows, complete, tasks):
            continue
        layouts = [[one[0] for one in row] for row in complete]
        layout = layout or layouts[0]
        if any(one != layout for one in layouts) or min(len(task) for task in layout) < 2:
            continue
        seedless = bool(rows["seed"].isna().all())
        if seedless and len(rows) > 1:
            continue
        arrays = (np.stack([row[place][1] for row in complete]) for place in range(len(tasks)))
        found[str(base), str(cell)] = Outcomes.of(*arrays, seedless=seedless)
    return found


def _by_trial(examples: pd.DataFrame, tasks: set[str]) -> Mapping[tuple[str, str], tuple[tuple[object, ...], Array]]:
    """Return, for each trial and task, what identifies its examples, and their outcomes."""
    if not len(examples):
        return {}
    ordered = examples[examples["task"].isin(tasks)].sort_values(["key", "task", "index"], kind="stable")
    found = {}
    for (key, task), rows in ordered.groupby(["key", "task"], sort=False):
        outcomes = rows["outcome"].to_numpy(dtype=np.float64)
        if np.isfinite(outcomes).all() and not rows["index"].duplicated().any():
            found[str(key), str(task)] = (tuple(zip(rows["index"], rows["target"], strict=True)), outcomes)
    return found


def _agree(rows: pd.DataFrame, complete: Sequence[Sequence[tuple[object, Array]]], tasks: Sequence[str]) -> bool:
    """Return whether every trial's scores are the means of its outcomes."""
    for place, task in enumerate(tasks):
        scores = rows[f"score_{task}"].to_numpy(dtype=np.float64, na_value=math.nan)
        means = np.asarray([row[place][1].mean() for row in complete])
        if not np.allclose(scores, means, rtol=0, atol=ROUNDING):
            return False
    return True
