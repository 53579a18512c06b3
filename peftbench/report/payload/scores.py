"""Scores for the page: of each task, each cell's mean with its interval, and what its answers follow from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peftbench.report.collect import MEAN, Cell, Results
from peftbench.report.derived.answer import answer
from peftbench.report.derived.significance import Significance
from peftbench.report.notes import answer as notes
from peftbench.report.notes.scores import metric_words
from peftbench.report.payload import questions
from peftbench.report.payload.attempt import Pieces
from peftbench.results.answer.decision import Question

MOST_WORDS = 90
"""Most words of the answer on the page."""


def scores(results: Results, known: Significance, pieces: Pieces) -> list[dict[str, Any]]:
    """Return what the page knows of each task, the headline (the mean over tasks if there are several) first."""
    tasks = [*([MEAN] if len(results.tasks) > 1 else []), *results.tasks]
    room = questions.ROOM // (max(1, len(results.cells)) * max(1, len(tasks)))
    return [
        pieces.make(f"scores on {task}", lambda t=task: _task(results, known, t, room), _unknown(task, results.cells))  # type: ignore[misc]
        for task in tasks or [MEAN]
    ]


def _unknown(task: str, cells: tuple[Cell, ...]) -> dict[str, Any]:
    """Return a task of which nothing is known."""
    nothing = dict.fromkeys(("mean", "sd", "low", "high"), [None] * len(cells))
    about = {"task": task, "metric": "score", "scope": "new seeds and new examples"}
    return about | dict.fromkeys(("examples", "chance", "majority", "questions", "answer")) | nothing


def _task(results: Results, known: Significance, task: str, room: int) -> dict[str, Any]:
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
        **_answered(results, task, MEAN if len(results.tasks) > 1 else task, room),
    }


def _answered(results: Results, task: str, headline: str, room: int) -> dict[str, Any]:
    """Return the answer at the default question in words, and what the page needs to answer others."""
    found = answer(results, Question(task=None if task == headline else task))
    made = {
        "words": shortened(notes.sentences(found), keep_last=found.finish_first),
        "command": found.command,
        "within": found.decision.question.within,
    }
    return {"answer": made, "questions": questions.task(results, found, room)}


def shortened(sentences: Sequence[str], keep_last: bool = False) -> list[str]:
    """Return the first sentences that have at most as many words together as the page's answer may have.

    Args:
        sentences: the most important first.
        keep_last: whether the last one is kept in any case.
    """
    last = list(sentences[-1:]) if keep_last else []
    kept: list[str] = []
    for sentence in sentences[: len(sentences) - len(last)]:
        if sum(len(each.split()) for each in (*kept, sentence, *last)) <= MOST_WORDS:
            kept.append(sentence)
    return kept + last
