"""The splits of a task; those that are not given are split off its training examples by seed. No torch."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from peftbench.records import Example, Task
from peftbench.tasks import SPLITS

_Item = TypeVar("_Item")
_LIMIT_SEED = "peftbench limit"
_SPLIT_SEED = "peftbench validation split"


def given(task: Task) -> tuple[str, ...]:
    """Return the splits that a task's files and dataset provide."""
    return tuple(split for split in SPLITS if split in task.files or split in task.splits)


def splits(task: Task) -> tuple[str, ...]:
    """Return the splits that a task has, in the order train, validation, test."""
    if task.builtin:
        return SPLITS
    if task.lm_eval:
        return ("test",)
    found = given(task)
    return tuple(s for s in SPLITS if s in found or ("train" in found and _fraction(task, s) > 0))


def is_cut(task: Task, split: str) -> bool:
    """Return whether a split is part of the given training examples: split off them, or what remains of them."""
    cut = [s for s in splits(task) if s not in given(task)]
    return split in cut or (split == "train" and bool(cut))


def cut(task: Task, found: Sequence[Example], split: str) -> list[Example]:
    """Return one split of the given training examples, the same on every machine.

    Examples with the same prompt stay together if the task has several references. A fraction above 0 splits off at
    least one example.
    """
    together = _together(found) if task.several_references else [[e] for e in found]
    order = list(range(len(together)))
    random.Random(_SPLIT_SEED + (f" {task.split_seed}" if task.split_seed else "")).shuffle(order)
    taken: set[int] = set()
    for part in ("validation", "test"):
        if part in given(task) or not _fraction(task, part):
            continue
        size = max(1, round(len(together) * _fraction(task, part)))
        held_out, order = set(order[:size]), order[size:]
        if part == split:
            return [e for i, group in enumerate(together) if i in held_out for e in group]
        taken |= held_out
    return [e for i, group in enumerate(together) if i not in taken for e in group]


def _fraction(task: Task, split: str) -> float:
    return {"validation": task.validation_fraction, "test": task.test_fraction}.get(split, 0.0)


def _together(found: Sequence[Example]) -> list[list[Example]]:
    """Group examples by prompt, in the order of first appearance."""
    groups: dict[str, list[Example]] = {}
    for e in found:
        groups.setdefault(e.prompt, []).append(e)
    return list(groups.values())


def with_all_references(found: Sequence[Example]) -> list[Example]:
    """Return the first example of each prompt, with the answers of all its examples as references.

    An answer that several of them have is there as often: NIST and CIDEr weigh references by their number.
    """
    return [replace(group[0], references=tuple(_answers(group))) for group in _together(found)]


def _answers(group: Iterable[Example]) -> Iterator[str]:
    for e in group:
        yield from e.references or (e.target,)


def draw(size: int, limit: int | None) -> list[int]:
    """Return which of a number of items a limit keeps, in order: a seeded draw, so that sorted data stays mixed.

    A smaller limit keeps a part of what a larger one keeps.
    """
    order = list(range(size))
    if limit is None or limit >= size:
        return order
    random.Random(_LIMIT_SEED).shuffle(order)
    return sorted(order[:limit])


def drawn(found: Sequence[_Item], limit: int | None) -> list[_Item]:
    """Return the items that a limit keeps; see ``draw``."""
    return [found[index] for index in draw(len(found), limit)]
