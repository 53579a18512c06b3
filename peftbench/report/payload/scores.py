"""Scores for the page: of each task, each cell's mean with its interval, and joint draws of all cells.

The draws are what the page computes with when a reader asks for another tolerated loss, budget or task: the
probability that a cell is within d of the best is the share of draws in which it is.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from peftbench.report.collect import MEAN, Cell, Results
from peftbench.report.derived.answer import answer
from peftbench.report.derived.significance import Significance
from peftbench.report.notes import answer as notes
from peftbench.report.notes.scores import metric_words
from peftbench.report.payload.attempt import Pieces
from peftbench.results.answer.decision import Question

MOST_DRAWS = 4000
FEWEST_DRAWS = 250
_ROOM = 200_000
"""Numbers that the draws of all cells and tasks may be, at two bytes each."""
MOST_WORDS = 90
_LEVELS = (0.5, 1, 1.5, 2, 3, 4, 5, 7.5, 10, 15, 20, 30, 50)
"""Losses, points, for which the page has the probability from which on a cell is good enough."""
_FAR = 0.998
"""Share of a cell's draws that are embedded as they are; those farther off are at the last of these."""
_STEPS = 32_767
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
    return about | dict.fromkeys(("examples", "chance", "majority", "draws", "answer")) | nothing


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
        **_answered(results, task, MEAN if len(results.tasks) > 1 else task, number),
    }


def _answered(results: Results, task: str, headline: str, number: int) -> dict[str, Any]:
    """Return the answer at the default question in words, and what the page needs to answer others.

    The draws are base64 of signed bytes, a cell after the other: whole numbers of the cell's own step from its score.
    """
    found = answer(results, Question(task=None if task == headline else task))
    losses, places = found.decision.losses, {cell.name: place for place, cell in enumerate(results.cells)}
    made: dict[str, Any] = {
        "words": _shortened(list(notes.sentences(found))),
        "command": found.command,
        "refused": found.decision.status == "refused",
        "seconds": [found.costs[c.name].train_seconds if c.name in found.costs else None for c in results.cells],
    }
    if losses is None:
        return {"answer": made, "draws": None}
    within, judged = found.decision.question.within, [places[name] for name in losses.names]
    off = losses.errors[:, :number].astype(np.float64)
    # a few draws of Student's t are very far off; how far decides no probability
    step = np.maximum(np.quantile(np.abs(off), _FAR, axis=1), 1e-12) / _STEPS
    data = np.rint(off / step[:, None]).clip(-_STEPS, _STEPS).astype("<i2").tobytes()
    levels = [(points, losses.level(points / 100)) for points in _LEVELS]
    made |= {"within": within, "levels": levels, "probabilities": losses.probability(within / 100).tolist()}
    encoded = base64.b64encode(data).decode()
    draws = {
        "cells": judged,
        "n": off.shape[1],
        "scores": losses.scores.tolist(),
        "step": step.tolist(),
        "data": encoded,
    }
    return {"answer": made, "draws": draws}


def _shortened(sentences: list[str]) -> list[str]:
    """Return the first sentences that have at most as many words together as the page's answer may have."""
    kept: list[str] = []
    for sentence in sentences:
        if sum(len(each.split()) for each in (*kept, sentence)) <= MOST_WORDS:
            kept.append(sentence)
    return kept
