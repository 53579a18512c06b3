"""Answers side by side: for each task its first prompt, and the prompt on which the methods disagree most."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pandas as pd

from peftbench.report.collect import Results

LONGEST = 1200
"""Longest text of a model in characters; the rest is only counted."""


@dataclass(frozen=True)
class Answer:
    """One cell's answer."""

    cell: str
    text: str
    mark: str
    """``right``, ``wrong``, ``unreadable``, or the score between 0 and 1."""
    css: str
    """The mark's class on the page."""


@dataclass(frozen=True)
class Sample:
    """One prompt and the answers of all cells."""

    why: str
    """Why this prompt is shown."""
    index: int
    prompt: str
    target: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class TaskSamples:
    """The samples of one task."""

    task: str
    samples: tuple[Sample, ...]


def task_samples(results: Results) -> tuple[TaskSamples, ...]:
    """Return two samples per task, from each cell's finished trial of the lowest seed."""
    chosen = {cell.ok_rows[0]["key"]: (place, cell.name) for place, cell in enumerate(results.finished)}
    rows = results.examples[results.examples["key"].isin(chosen)] if len(results.examples) else results.examples
    found = []
    for task in results.tasks:
        mine = rows[rows["task"] == task] if len(rows) else rows
        if not len(mine):
            continue
        picks = {int(mine["index"].min()): "the first prompt", **_most_disputed(mine)}
        samples = tuple(_sample(mine[mine["index"] == index], why, chosen) for index, why in picks.items())
        found.append(TaskSamples(task, samples))
    return tuple(found)


def _most_disputed(rows: pd.DataFrame) -> dict[int, str]:
    """Return the prompt after the first whose outcomes have the largest variance, the earliest of several."""
    variance = rows.groupby("index")["outcome"].var(ddof=0).sort_index().iloc[1:]
    if not len(variance):
        return {}
    differ = "of the others, the prompt whose scores differ most between cells"
    return {int(variance.idxmax()): differ if variance.max() > 0 else "the next prompt; scores differ on none"}


def _sample(rows: pd.DataFrame, why: str, chosen: dict[str, tuple[int, str]]) -> Sample:
    ordered = sorted(rows.to_dict("records"), key=lambda row: chosen[row["key"]][0])
    graded = bool(rows["outcome"].isin([0.0, 1.0]).all())
    answers = tuple(_answer(row, chosen[row["key"]][1], graded) for row in ordered)
    first = ordered[0]
    return Sample(why, int(first["index"]), _cut(str(first["prompt"])), _cut(str(first["target"])), answers)


def _answer(row: dict[str, object], cell: str, graded: bool) -> Answer:
    """Mark one answer: right or wrong if the metric is 0 or 1, else by its score."""
    text, outcome = _cut(str(row["prediction"]) or _likelihood(row)), float(row["outcome"])  # type: ignore[arg-type]
    readable = row.get("format_ok")
    if not pd.isna(readable) and not readable:
        return Answer(cell, text, "unreadable", "wrong")
    if graded:
        mark = "right" if outcome else "wrong"
        return Answer(cell, text, mark, mark)
    return Answer(cell, text, f"{outcome:.2f}", "between")


def _likelihood(row: dict[str, object]) -> str:
    """Return the log-probability of the given text, for a task without decoded answers."""
    try:
        (logprob,) = json.loads(str(row.get("choice_logprobs")))
        return f"(log-probability {logprob:,.2f} nats)"
    except (TypeError, ValueError):  # an empty answer
        return ""


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}… ({len(text) - LONGEST:,} more characters)"
