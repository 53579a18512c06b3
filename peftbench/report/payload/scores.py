"""Scores for the page: of each task, each cell's mean with its interval, and joint draws of all cells.

The draws are what the page computes with when a reader asks for another tolerated loss, budget or task: the
probability that a cell is within d of the best is the share of draws in which it is.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np

from peftbench.report.collect import MEAN, Cell, Results
from peftbench.report.derived.attempts import Attempts
from peftbench.report.derived.significance import Significance
from peftbench.report.notes.scores import metric_words
from peftbench.report.payload.attempt import Pieces
from peftbench.results.crossed_effects import front
from peftbench.results.crossed_effects.model import Array, Outcomes

MOST_DRAWS = 2000
FEWEST_DRAWS = 250
_ROOM = 400_000
"""Numbers that the draws of all cells and tasks may be, at one byte each."""
_STEPS = 127
"""A draw is stored as a whole number of steps from the cell's mean, at most this many to either side."""


def scores(results: Results, known: Significance, pieces: Pieces) -> list[dict[str, Any]]:
    """Return what the page knows of each task, the headline (the mean over tasks if there are several) first."""
    tasks = [*([MEAN] if len(results.tasks) > 1 else []), *results.tasks]
    several = len(results.cells) * max(1, len(tasks))
    number = max(FEWEST_DRAWS, min(MOST_DRAWS, _ROOM // several))
    return [
        pieces.make(f"scores on {task}", lambda t=task: _task(results, known, t, number), _unknown(task, results.cells))  # type: ignore[misc]
        for task in tasks or [MEAN]
    ]


def _unknown(task: str, cells: tuple[Cell, ...]) -> dict[str, Any]:
    """Return a task of which nothing is known."""
    nothing = dict.fromkeys(("mean", "sd", "low", "high"), [None] * len(cells))
    about = {"task": task, "metric": "score", "scope": "new seeds and new examples"}
    return about | dict.fromkeys(("examples", "chance", "majority", "draws")) | nothing


def _task(results: Results, known: Significance, task: str, number: int) -> dict[str, Any]:
    spreads = [cell.summary.spreads.get(f"score_{task}") for cell in results.cells]
    estimates = [known.estimate(task, cell) for cell in results.cells]
    record = results.score_record(task)
    crossed = task in known.rankings
    if crossed:
        low, high = ([None if e is None else getattr(e, end) for e in estimates] for end in ("low", "high"))
    else:
        halves = [(s.mean, s.half_width) if s and s.half_width is not None else None for s in spreads]
        low, high = ([h and h[0] + sign * h[1] for h in halves] for sign in (-1, 1))
    names = results.tasks if task == MEAN else (task,)
    return {
        "task": task,
        "metric": "unweighted mean" if task == MEAN else metric_words(str(record.get("metric") or "score")),
        "examples": record.get("examples") if task != MEAN else None,
        "chance": results.reference("chance", task),
        "majority": results.reference("majority", task),
        "scope": "new seeds and new examples" if crossed else "new seeds, on the same examples",
        "mean": [s and s.mean for s in spreads],
        "sd": [s and s.sd for s in spreads],
        "low": low,
        "high": high,
        "draws": _stored_draws(results.cells, results.outcomes(names), number) if crossed else None,
    }


def _stored_draws(cells: tuple[Cell, ...], found: Mapping[str, Outcomes], number: int) -> dict[str, Any] | None:
    """Return the draws of the cells that train something, as base64 of signed bytes, a cell after the other."""
    tuned = [place for place, cell in enumerate(cells) if cell.name in found and not cell.is_base]
    drawn = Attempts().result("draws", lambda: joint_draws([found[cells[p].name] for p in tuned], number))
    if drawn is None:
        return None
    means = np.asarray([found[cells[place].name].mean for place in tuned])
    off = drawn - means
    step = np.maximum(np.abs(off).max(axis=0), 1e-12) / _STEPS
    data = np.rint(off / step).astype(np.int8).T.tobytes()
    return {"cells": tuned, "n": number, "step": step.tolist(), "data": base64.b64encode(data).decode()}


def joint_draws(cells: list[Outcomes], number: int) -> Array | None:
    """Return joint draws (number, cells) of the scores for new seeds and new examples; None for no cell."""
    if not cells:
        return None
    spread = front.factor(front.covariance(cells))
    normal = np.random.default_rng(front.SEED).standard_normal((number, len(cells)))
    return np.asarray([cell.mean for cell in cells]) + normal @ spread.T
