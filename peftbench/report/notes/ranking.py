"""Notes on how choices were ranked: with the end of an answer or without, and how often prompts were run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from peftbench.records.wording import abridged, plural, series
from peftbench.report.collect import Cell, Results, read_json

WITHOUT_END = "choice"
"""What a score's settings say if the end of an answer was not ranked; ``evaluation.ranking`` writes it."""
_Item = tuple[str, Cell, Mapping[str, Any]]
"""A task, a cell, and the settings with which one of its trials was scored."""
_MOST = 6
"""Cells that are named before the others are only counted."""


def notes(results: Results) -> Iterable[str]:
    """Yield what was ranked and how, if it is stored: rows of older protocols lack it."""
    found = [
        (task, cell, each) for task in results.tasks for cell in results.finished for each in _settings(cell, task)
    ]
    ended = [item for item in found if item[2]["ranked"] != WITHOUT_END]
    plain = [item for item in found if item[2]["ranked"] == WITHOUT_END]
    compared = {task for task, *_ in ended}
    if ended:
        yield (
            f"Choices of {_tasks(ended)} are ranked by the probability of the choice and of the end that follows an "
            f"answer in training ({_what(ended)})."
        )
    apart = [item for item in plain if item[0] in compared]
    if apart:
        yield (
            f"Not equal in all rows: {_cells(apart)} did not learn this end, so there choices of {_tasks(apart)} are "
            f"ranked by the probability of the choice alone.{_beginnings(apart)}"
        )
    others = [item for item in plain if item[0] not in compared]
    if others:
        yield (
            f"Choices of {_tasks(others)} are ranked by the probability of the choice alone, as no model here learned "
            f"an end of answers.{_beginnings(others)}"
        )
    yield from _forms(found)


def _settings(cell: Cell, task: str) -> list[Mapping[str, Any]]:
    each = (read_json(text).get(task) for text in cell.texts("scores_json"))
    settings = [score.get("settings") or {} for score in each if isinstance(score, dict)]
    return [given for given in settings if given.get("ranked")]


def _what(items: Sequence[_Item]) -> str:
    ends = dict.fromkeys(str(given["ranked"]).removeprefix("choice").removeprefix(",").strip() for *_, given in items)
    return series(tuple(end.removeprefix("and ") for end in ends))


def _tasks(items: Sequence[_Item]) -> str:
    return series(tuple(dict.fromkeys(task for task, *_ in items)))


def _cells(items: Sequence[_Item]) -> str:
    cells = {cell.name: cell for _, cell, _ in items}
    if all(cell.is_base for cell in cells.values()):
        return "the untuned base model"
    return abridged(tuple(cells), _MOST)


def _beginnings(items: Sequence[_Item]) -> str:
    """Return the consequence for choices that are the beginning of another."""
    most: dict[str, int] = {}
    for task, _, given in items:
        most[task] = max(most.get(task, 0), int(given.get("begin_another") or 0))
    parts = [f"{plural(count, 'choice')} of {task}" for task, count in most.items() if count]
    if not parts:
        return ""
    return f" Without the end, a choice with which another choice begins always wins against it: {series(parts)}."


def _forms(items: Sequence[_Item]) -> Iterable[str]:
    """Yield which cells ran the prompt with each choice while others ran it once: their evaluation costs more."""
    once = [item for item in items if item[2].get("prompts") == "run once for all choices"]
    reasons: dict[str, list[_Item]] = {}
    for item in items:
        if item[2].get("prompts_reason"):
            reasons.setdefault(str(item[2]["prompts_reason"]), []).append(item)
    for reason, each in reasons.items():
        if once:
            names = abridged(tuple(dict.fromkeys(cell.name for _, cell, _ in each)), _MOST)
            yield (
                f"Evaluation ran a prompt once for all of its choices, but with each choice for {names} ({reason}): "
                "scores are not affected, evaluation's time and memory are."
            )
