"""The examples that are scored: those of a split, with few-shot examples from the training split if requested."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from peftbench.errors import UserError
from peftbench.records import Example, Task, patterns
from peftbench.tasks import answers, read

SEPARATOR = "\n\n"
"""Separates the examples of a prompt, as in lm-eval."""


def scored(task: Task, split: str) -> list[Example]:
    """Return the examples of a split with the prompts that are scored; of a conversation the last answer counts.

    Raises:
        UserError: as ``read.examples``; or if the task's answer pattern finds no answer in an example's target.
    """
    found = [replace(e, taught=()) if e.taught else e for e in read.examples(task, split)]
    check_answers(task, split, found)
    if not task.num_fewshot or task.lm_eval:  # a task of lm-eval draws its own few-shot examples
        return found
    return with_shots(task, found, read.examples(task, "train"))


def check_answers(task: Task, split: str, examples: Sequence[Example]) -> None:
    """Check that the task's answer pattern, if it has one, finds an answer in every target.

    Raises:
        UserError: if it finds none.
    """
    if task.answer_pattern is None:
        return
    for index, e in enumerate(examples):
        try:
            found = answers.read_answer(task.answer_pattern, e.target)
        except patterns.TooSlow as error:
            where = f"task {task.name!r}: answer_pattern, target of {split} example {index}"
            raise UserError(f"{where}: {error}") from None
        if found is None:
            raise UserError(
                f"task {task.name!r}: answer_pattern: given {task.answer_pattern!r}; it finds no answer in the target "
                f"of {split} example {index}: {e.target[:80]!r}"
            )


def with_shots(task: Task, examples: Sequence[Example], train: Sequence[Example]) -> list[Example]:
    """Prepend ``task.num_fewshot`` solved training examples to each prompt.

    Each prompt gets its own random draw, seeded by the index of the example. Training examples with the same prompt as
    the scored one are not drawn, as they would contain its answer.

    Raises:
        UserError: if there are too few training examples.
    """
    count = task.num_fewshot or 0
    found = []
    for index, e in enumerate(examples):
        rng = random.Random(f"few-shot {task.name} {index}")
        drawn = [train[i] for i in rng.sample(range(len(train)), min(len(train), count + 1))]
        shots = [shot for shot in drawn if shot.prompt != e.prompt][:count]
        if len(shots) < count:  # several had the scored prompt, or there are too few
            others = [shot for shot in train if shot.prompt != e.prompt]
            if len(others) < count:
                raise UserError(
                    f"task {task.name!r}: num_fewshot: given {count}; allowed: at most {len(others)}, the number of "
                    "training examples whose prompt differs from the scored one"
                )
            shots = rng.sample(others, count)
        lines = [shot.prompt + shot.join + shot.target for shot in shots]
        found.append(replace(e, prompt=SEPARATOR.join([*lines, e.prompt])))
    return found
