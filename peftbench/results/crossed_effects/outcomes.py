"""Arrays of outcomes from stored rows: every seed of a cell on the same examples, in the same order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from peftbench.results.crossed_effects.model import LARGEST, Array, Outcomes
from peftbench.results.rows import is_number

if TYPE_CHECKING:
    import pandas as pd

Key = tuple[str, str]
"""Base model and cell."""
ROUNDING = 1e-6
"""Largest difference allowed between a trial's score and the mean of its outcomes."""


@dataclass(frozen=True)
class Scored:
    """A trial's outcomes on a task."""

    outcomes: Array
    """In the order of the examples."""
    layout: int
    """Number of the sequence of examples, of positions and targets: equal for trials that were scored on the same."""
    score: float
    """Mean of the outcomes."""


@dataclass(frozen=True)
class Arranged:
    """Stored examples by trial and task, arranged once for all tables that are made of them."""

    scored: Mapping[tuple[str, str], Scored | str] = field(default_factory=dict)
    """By key and task: the outcomes, or why they are not usable."""


def by_cell(trials: pd.DataFrame, examples: pd.DataFrame | Arranged, tasks: Sequence[str]) -> dict[Key, Outcomes]:
    """Return the outcomes of the ``ok`` trials of each cell; a cell of which they are incomplete is missing.

    Args:
        trials: see ``read``.
        examples: see ``read``.
        tasks: see ``read``.
    """
    found = read(trials, examples, tasks)
    return {key: one for key, one in found.items() if isinstance(one, Outcomes)}


def read(trials: pd.DataFrame, examples: pd.DataFrame | Arranged, tasks: Sequence[str]) -> dict[Key, Outcomes | str]:
    """Return the outcomes of the ``ok`` trials of each cell, over one task or several, or why it has none.

    The rows of an array are in the order of the seeds. A cell has none if its outcomes are incomplete (a trial's
    examples are not stored, or differ from those of the first cell in position or target) or if a score is not the mean
    of its outcomes.

    Args:
        trials: the rows that a table is about.
        examples: one row per scored example, with the columns of ``records.ExampleRow``; or these arranged.
        tasks: tasks whose unweighted mean is the score.
    """
    stored = examples if isinstance(examples, Arranged) else arrange(examples)
    scores = [name for task in tasks if (name := f"score_{task}") in trials]
    ok = trials.loc[trials["status"] == "ok", ["base", "cell", "seed", "key", *scores]]
    cells: dict[Key, list[dict[str, Any]]] = {}
    for row in ok.to_dict("records"):
        cells.setdefault((str(row["base"]), str(row["cell"])), []).append(row)
    layout: tuple[int, ...] | None = None
    found: dict[Key, Outcomes | str] = {}
    for key, unsorted in cells.items():
        rows = sorted(unsorted, key=lambda row: float(row["seed"]) if is_number(row["seed"]) else np.inf)
        found[key], own = _cell(rows, stored, tasks, layout)
        layout = layout or own
    return found


def _cell(
    rows: Sequence[Mapping[str, Any]], stored: Arranged, tasks: Sequence[str], layout: tuple[int, ...] | None
) -> tuple[Outcomes | str, tuple[int, ...] | None]:
    """Return a cell's outcomes, or why it has none, and the layouts of its examples if it is complete."""
    if not tasks:
        return "no task is scored", None
    each = {task: [stored.scored.get((str(row["key"]), task)) for row in rows] for task in tasks}
    for one in (one for column in each.values() for one in column):
        if not isinstance(one, Scored):
            return one or "a trial's examples are not stored", None
    columns = {task: [one for one in column if isinstance(one, Scored)] for task, column in each.items()}
    for task, column in columns.items():
        if not all(_agrees(row[f"score_{task}"], one) for row, one in zip(rows, column, strict=True)):
            return "a score is not the mean of the stored outcomes", None
    own = tuple(column[0].layout for column in columns.values())
    for number, column in zip(layout or own, columns.values(), strict=True):
        if any(one.layout != number for one in column):
            return "its scored examples are not those of the other cells, or of its other seeds", None
    if min(len(column[0].outcomes) for column in columns.values()) < 2:
        return "a task has fewer than two scored examples", None
    seedless = not any(is_number(row["seed"]) for row in rows)
    if seedless and len(rows) > 1:
        return "it has several trials without a seed", None
    arrays = (np.stack([one.outcomes for one in column]) for column in columns.values())
    return Outcomes.of(*arrays, seedless=seedless), own


def _agrees(score: Any, one: Scored) -> bool:
    """Return whether a trial's score is the mean of its outcomes."""
    return is_number(score) and abs(score - one.score) <= ROUNDING


def arrange(examples: pd.DataFrame) -> Arranged:
    """Return stored examples by trial and task, those of a trial in the order of their positions.

    Args:
        examples: one row per scored example, with the columns of ``records.ExampleRow``, in any order.
    """
    import pandas as pd

    known = examples[examples["key"].notna() & examples["task"].notna()] if len(examples) else examples
    if not len(known):
        return Arranged()
    (key, keys), (task, tasks), (target, _) = (pd.factorize(known[name]) for name in ("key", "task", "target"))
    place, outcome = known["index"].to_numpy(dtype=np.int64), known["outcome"].to_numpy(dtype=np.float64)
    run = key * np.int64(len(tasks)) + task
    starts = _starts(run)
    if len(np.unique(run[starts])) < len(starts) or not _ascending(place, starts):
        order = np.lexsort((place, run))
        run, place, outcome, target = run[order], place[order], outcome[order], target[order]
        starts = _starts(run)
    ends = np.append(starts[1:], len(run))
    infinite = np.logical_or.reduceat(~(np.abs(outcome) <= LARGEST), starts)
    same = np.append(False, place[1:] == place[:-1])
    same[starts] = False
    twice = np.logical_or.reduceat(same, starts)
    layouts: dict[tuple[bytes, bytes], int] = {}
    scored: dict[tuple[str, str], Scored | str] = {}
    for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        rows, (whose, what) = slice(start, end), divmod(int(run[start]), len(tasks))
        name = str(tasks[what])
        found: Scored | str
        if infinite[number]:
            found = f"an outcome of {name} is not a finite number"
        elif twice[number]:
            found = f"an example of {name} is stored twice for a trial"
        else:
            layout = layouts.setdefault((place[rows].tobytes(), target[rows].tobytes()), len(layouts))
            found = Scored(outcome[rows], layout, float(outcome[rows].mean()))
        scored[str(keys[whose]), name] = found
    return Arranged(scored)


def _starts(run: np.ndarray) -> np.ndarray:
    """Return the places at which another run begins."""
    return np.flatnonzero(np.append(True, run[1:] != run[:-1]))


def _ascending(place: np.ndarray, starts: np.ndarray) -> bool:
    """Return whether places do not fall within a run."""
    falls = np.append(False, place[1:] < place[:-1])
    falls[starts] = False
    return not falls.any()
