"""What the page shows when a trial or a folded section is opened: curves, ledgers, settings, environments, samples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from peftbench.records import Category, Phase
from peftbench.records.phase import UNTRACKED, UNTRACKED_BAR
from peftbench.report.collect import Results, read_json
from peftbench.report.flat import flat_texts
from peftbench.report.tables.samples import task_samples

MOST_POINTS = 120
"""Points of a trial's curve on the page; of more steps, neighbours are averaged."""
FEWER_POINTS = 40
MANY_TRIALS = 400
"""With more trials than this, curves have fewer points."""
CURVES_TOGETHER = 50
"""Trials of one file of curves."""


def memory_parts() -> list[dict[str, str]]:
    """Return column, heading and colour of the categories of memory, in the order of a bar."""
    return [{"name": c.column, "title": c.heading, "color": c.color} for c in Category]


def time_parts() -> list[dict[str, Any]]:
    """Return heading, colour and columns of the segments of a trial's time."""
    found: dict[str, dict[str, Any]] = {}
    for phase in Phase:
        found.setdefault(phase.bar, {"title": phase.bar, "color": phase.color, "names": []})["names"].append(
            phase.column
        )
    untracked = {"title": UNTRACKED_BAR[0], "color": UNTRACKED_BAR[1], "names": [UNTRACKED]}
    return [*found.values(), untracked]


def curves(results: Results) -> list[dict[str, Any] | None]:
    """Return each trial's training loss, in the order of the trials: first step, steps per point, values.

    The points of a cell's trials lie at the same steps, whatever the number of their steps.
    """
    trials = results.trials
    keys = trials["key"].tolist()
    if not len(results.steps):
        return [None] * len(keys)
    places = results.steps.groupby("key").indices
    steps, losses = (results.steps[name].to_numpy(dtype=float) for name in ("step", "loss"))
    points = FEWER_POINTS if len(keys) > MANY_TRIALS else MOST_POINTS
    cells = list(zip(trials["base"].tolist(), trials["cell"].tolist(), strict=True))
    ends: dict[Any, tuple[float, float, float]] = {}
    for key, cell in zip(keys, cells, strict=True):
        if key in places:
            own = steps[places[key]]
            first, last, apart = ends.get(cell, (np.inf, -np.inf, np.inf))
            apart = min(apart, np.diff(np.sort(own)).min(initial=np.inf))
            ends[cell] = min(first, own.min()), max(last, own.max()), apart
    return [
        _curve(steps[places[key]], losses[places[key]], *ends[cell], points) if key in places else None
        for key, cell in zip(keys, cells, strict=True)
    ]


def _curve(steps: Any, losses: Any, first: float, last: float, apart: float, points: int) -> dict[str, Any]:
    """Return a curve as means over equally many steps; None where a trial has none of them.

    Of results whose rows are ``apart`` steps from each other, points are at least as far apart.
    """
    own = int(apart) if 1 < apart < np.inf else 1
    every = own * max(1, -(-int((last - first) // own + 1) // points))
    at = ((steps - first) // every).astype(int)
    count, total = np.bincount(at), np.bincount(at, weights=losses)
    values = [float(f"{t / n:.4g}") if n else None for n, t in zip(count, total, strict=True)]
    return {"first": first, "every": every, "loss": values}


def ledgers(results: Results) -> list[Any]:
    """Return each trial's bytes by phase and category, in the order of the trials."""
    return [read_json(text) or None for text in _column(results.trials, "ledger_json")]


def _column(trials: pd.DataFrame, name: str) -> list[Any]:
    return trials[name].tolist() if name in trials else [None] * len(trials)


def settings(results: Results) -> dict[str, Any]:
    """Return all settings of the trials: names, distinct texts, and of each trial the number of its text per name.

    Most trials share most values, so a trial is a row of small numbers.
    """
    return _indexed([flat_texts(read_json(text)) for text in results.trials["settings_json"]])


def environments(results: Results) -> dict[str, Any]:
    """Return the environments of the trials in the same form."""
    parsed: dict[Any, dict[str, str]] = {}
    for text in results.trials["environment_json"]:
        if text not in parsed:
            parsed[text] = flat_texts({k: v for k, v in read_json(text).items() if k != "command"})
    return _indexed([parsed[text] for text in results.trials["environment_json"]])


def _indexed(rows: list[dict[str, str]]) -> dict[str, Any]:
    """Return ``{"names": [...], "sets": [[...], ...], "of": [...]}``: distinct rows, and each row's place there.

    A set holds, per name, the place of its value among the distinct values, -1 for none.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    values: list[dict[str, int]] = [{} for _ in names]
    sets: dict[tuple[int, ...], int] = {}
    places = []
    for row in rows:
        made = tuple(
            values[i].setdefault(row[name], len(values[i])) if name in row else -1 for i, name in enumerate(names)
        )
        places.append(sets.setdefault(made, len(sets)))
    return {"names": names, "values": [list(each) for each in values], "sets": list(sets), "of": places}


def samples(results: Results) -> list[dict[str, Any]]:
    """Return prompts of each task with the cells' answers, by the cell's place in the table."""
    places = {cell.name: place for place, cell in enumerate(results.cells)}
    return [
        {
            "task": group.task,
            "index": one.index,
            "why": one.why,
            "prompt": one.prompt,
            "target": one.target,
            "cells": [places[answer.cell] for answer in one.answers],
            "texts": [answer.text for answer in one.answers],
            "marks": [answer.mark for answer in one.answers],
        }
        for group in task_samples(results)
        for one in group.samples
    ]


def split(values: list[Any], size: int) -> Iterable[list[Any]]:
    """Yield a list in pieces of a size."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
