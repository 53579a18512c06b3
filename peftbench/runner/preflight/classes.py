"""The classes that a head tells apart, found in the training examples where the suite gives none, and its numbers."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import replace

from peftbench.errors import UserError, unknown
from peftbench.records import HEADS, Task, Trial
from peftbench.tasks import HEADLINES, read
from peftbench.tasks.rendering import without_answer

_MOST = 1000
"""Most classes: more are hardly classes, such as the numbers of a regression."""


def resolved(trials: Sequence[Trial], reader: read.Reader, unseen: Container[str] = ()) -> tuple[Trial, ...]:
    """Return trials in which every classification task has its classes, in alphabetical order where they are found.

    Args:
        trials: the trials.
        reader: returns a split's examples.
        unseen: names of tasks whose data is not read; they get no classes.

    Raises:
        UserError: if there are too few or too many classes, two that differ only in how they are written, an example
            without one, or one of another split that no training example has; if the answer of a regression is no
            number; or if the scored answers are all the same, so that there is no correlation with them.
    """
    known: dict[str, Task] = {}

    def complete(task: Task, scored: str) -> Task:
        if task.kind not in HEADS or task.name in unseen or task.builtin:
            return task
        key = f"{scored} {task!r}"
        if key not in known:
            found = _numbers(task, reader) if task.kind == "regression" else _classes(task, reader)
            _check_varied(found, scored, reader)
            known[key] = found
        return known[key]

    return tuple(replace(t, tasks=tuple(complete(task, t.evaluation.split) for task in t.tasks)) for t in trials)


def _check_given(task: Task, reader: read.Reader) -> None:
    """Check that each example has a class."""
    for split in read.splits(task):
        for index, e in enumerate(reader(task, split)):
            if not e.target:
                raise UserError(f"{_place(task, split, index)}: it has no class; {without_answer(task)}")


def _classes(task: Task, reader: read.Reader) -> Task:
    _check_given(task, reader)
    found = tuple(sorted({e.target for e in reader(task, "train")}))
    where = f"task {task.name!r}: its training examples have"
    if len(found) < 2:
        raise UserError(f"{where} {len(found)} class ({', '.join(map(repr, found))}); a head tells at least two apart")
    if task.choices:  # the reader has compared the answers with them
        return task
    if len(found) > _MOST:
        raise UserError(
            f"{where} {len(found):,} different answers, such as {found[0]!r}; allowed: at most {_MOST:,} classes "
            "(numbers are for kind: regression)"
        )
    alike: dict[str, str] = {}
    for name in found:
        other = alike.setdefault(_meant(name), name)
        if other != name:
            raise UserError(
                f"{where} the classes {other!r} and {name!r}, which differ only in how they are written; give labels "
                "that map both to one, or choices if they are two"
            )
    for split in read.splits(task):
        for index, e in enumerate(reader(task, split)):
            if e.target not in found:
                raise UserError(
                    f"{_place(task, split, index)}: {unknown('class', e.target, found)}; classes are those of the "
                    "training examples"
                )
    return replace(task, choices=found)


def _place(task: Task, split: str, index: int) -> str:
    return f"task {task.name!r}: {split} example {index + 1}"


def _meant(name: str) -> str:
    """Return what a class means: a number, or a text without regard to case."""
    number = _number(name)
    return " ".join(name.casefold().split()) if number is None else repr(number)


def _number(text: str) -> float | None:
    """Return the finite number that a text is; None if it is none."""
    try:
        found = float(text) if "_" not in text else math.nan  # Python reads 1_000, which no other program writes
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def _numbers(task: Task, reader: read.Reader) -> Task:
    for split in read.splits(task):
        for index, e in enumerate(reader(task, split)):
            if _number(e.target) is None:
                raise UserError(
                    f"{_place(task, split, index)}: target: given {e.target!r}; allowed for a regression: a number"
                )
    return task


def _check_varied(task: Task, scored: str, reader: read.Reader) -> None:
    """Check that what a correlation is computed with is not the same for all examples."""
    metric = task.metric or HEADLINES[task.kind][0]
    for split in ("train", scored) if task.kind == "regression" else (scored,):
        answers = {_number(e.target) if task.kind == "regression" else e.target for e in reader(task, split)}
        if len(answers) == 1 and metric in ("pearson", "matthews"):
            only = next(iter(answers))
            raise UserError(
                f"task {task.name!r}: every {split} example has the answer {only!r}, and a correlation ({metric}) "
                "needs answers that differ"
            )
