"""The classes that a head tells apart, found in the training examples where the suite gives none, and its numbers."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import replace

from peftbench.errors import UserError, unknown
from peftbench.records import HEADS, Task, Trial
from peftbench.tasks import read

_MOST = 1000
"""Most classes: more are hardly classes, such as the numbers of a regression."""


def resolved(trials: Sequence[Trial], reader: read.Reader, unseen: Container[str] = ()) -> tuple[Trial, ...]:
    """Return trials in which every classification task has its classes, in alphabetical order where they are found.

    Args:
        trials: the trials.
        reader: returns a split's examples.
        unseen: names of tasks whose data is not read; they get no classes.

    Raises:
        UserError: if there are too few or too many classes, an example of another split has a class that no training
            example has, or the answer of a regression is no number.
    """
    known: dict[str, Task] = {}

    def complete(task: Task) -> Task:
        if task.kind not in HEADS or task.name in unseen or task.builtin:
            return task
        if repr(task) not in known:
            known[repr(task)] = _numbers(task, reader) if task.kind == "regression" else _classes(task, reader)
        return known[repr(task)]

    return tuple(replace(trial, tasks=tuple(map(complete, trial.tasks))) for trial in trials)


def _classes(task: Task, reader: read.Reader) -> Task:
    if task.choices:  # the reader has compared the answers with them
        return task
    found = tuple(sorted({e.target for e in reader(task, "train")}))
    where = f"task {task.name!r}: its training examples have"
    if len(found) < 2:
        raise UserError(f"{where} {len(found)} class ({', '.join(map(repr, found))}); a head tells at least two apart")
    if len(found) > _MOST:
        raise UserError(
            f"{where} {len(found):,} different answers, such as {found[0]!r}; allowed: at most {_MOST:,} classes "
            "(numbers are for kind: regression)"
        )
    for split in read.splits(task):
        for index, e in enumerate(reader(task, split)):
            if e.target not in found:
                raise UserError(
                    f"task {task.name!r}: {split} example {index + 1}: {unknown('class', e.target, found)}; classes "
                    "are those of the training examples"
                )
    return replace(task, choices=found)


def _numbers(task: Task, reader: read.Reader) -> Task:
    for split in read.splits(task):
        for index, e in enumerate(reader(task, split)):
            try:
                finite = math.isfinite(float(e.target))
            except ValueError:
                finite = False
            if not finite:
                raise UserError(
                    f"task {task.name!r}: {split} example {index + 1}: target: given {e.target!r}; allowed for a "
                    "regression: a number"
                )
    return task
