"""Tasks for a head on the model (``classification``, ``regression``): what they take, and that a suite has one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peftbench.methods import METHODS, Method
from peftbench.methods.support import Refusal
from peftbench.records import HEADS, Task
from peftbench.suite.builder import Builder
from peftbench.suite.cell import Cell
from peftbench.suite.records import Suite
from peftbench.suite.schema import TaskBlock
from peftbench.suite.wording import describe_value
from peftbench.suite.yaml_lines import KeyPath

_OF_DECODING = {
    "max_new_tokens": "nothing is decoded",
    "chat": "a head reads the text alone, not as a message of a chat",
    "messages": "a head reads the text alone, not a conversation",
    "num_fewshot": "a head reads one text, without solved examples",
}
"""Keys of a task that have no meaning for a head, and why; others are refused for all kinds but their own."""


def check(b: Builder, path: KeyPath, block: TaskBlock) -> None:
    """Record keys that a task for a head cannot use, and classes that are none."""
    for key, why in _OF_DECODING.items():
        if getattr(block, key):
            b.problem((*path, key), f"{why}; this task's kind is {block.kind}")
    if block.prompt_pair is not None and not block.prompt_pair.strip():
        text = f"given {describe_value(block.prompt_pair)}; allowed: a template for the second text of a pair"
        b.problem((*path, "prompt_pair"), f"{text}, or no such key for single texts")
    if block.kind == "regression":
        for key in ("labels", "choices"):
            if getattr(block, key):
                b.problem((*path, key), "a regression task has no classes; its target is a number")
    elif block.choices and len(set(block.choices)) < max(2, len(block.choices)):
        text = "at least two different classes, or none, to find them in the training examples"
        b.problem((*path, "choices"), f"given {describe_value(block.choices)}; allowed: {text}")


def check_suite(b: Builder, suite: Suite) -> None:
    """Record what a suite cannot have beside a task for a head."""
    found = [task for task in suite.tasks if task.kind in HEADS]
    if not found:
        return
    if len(suite.tasks) > 1:
        others = ", ".join(task.name for task in suite.tasks if task is not found[0])
        b.problem(
            ("tasks", found[0].name),
            f"a {found[0].kind} task puts a head on the model, so it is the only task of its suite; also given: "
            f"{others}; give each task a suite of its own",
        )
    if "train" not in suite_splits(found[0]):
        b.problem(("tasks", found[0].name), f"a {found[0].kind} task needs a train file or split, for its head")
    if isinstance(b.document.get(("evaluate", "retention")), dict):
        text = "a model with a head for whole texts predicts no tokens, so it has no loss on general text"
        b.problem(("evaluate", "retention"), f"{text}; allowed: false")
    if b.document.get(("evaluate", "inference")) is True:
        text = "a model with a head for whole texts generates nothing, so there is no cost of it"
        b.problem(("evaluate", "inference"), f"{text}; allowed: false")
    if suite.generation != "greedy":
        b.problem(("evaluate", "generation"), f"nothing is decoded in a {found[0].kind} task; remove the key")


def suite_splits(task: Task) -> tuple[str, ...]:
    """Return the splits that a task has."""
    from peftbench.tasks.splits import splits

    return splits(task)


def of(tasks: Iterable[Task]) -> Task | None:
    """Return the task that puts a head on the model; None if the model predicts tokens."""
    return next((task for task in tasks if task.kind in HEADS), None)


def cell_problems(cell: Cell, suite: Suite) -> Iterable[str]:
    """Yield a problem for each training setting that has no meaning with a head."""
    task = of(suite.tasks)
    if task is None or not cell.settings:
        return
    if cell.settings["packing"]:
        yield f"{cell.where}: packing: a head reads one text per row; allowed in a {task.kind} task: false"
    if cell.settings["loss_on"] == "all":
        yield f"{cell.where}: loss_on: given all; a head has no loss on tokens; remove the key"
    if cell.settings["logits"] != "all":
        given = cell.settings["logits"]
        yield f"{cell.where}: logits: given {given}; a head gives one output per text, not per token; remove the key"


def refusal(method: Method, tasks: Iterable[Task]) -> Refusal | None:
    """Return why a method cannot be scored on the tasks; None if it can."""
    if of(tasks) is None or METHODS[method.name].trains:
        return None
    return Refusal(
        f"{method.name} has no score with a head",
        "the head is random until it is trained; the rows of majority and chance show what needs no model",
    )


def without_measures(suite: Suite) -> dict[str, Any]:
    """Return the fields of trials that measure what a model with a head does not do: predict and generate tokens."""
    return {} if of(suite.tasks) is None else {"inference": False, "retention": None}
