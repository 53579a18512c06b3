"""``tasks:`` -> Task records, each checked for what its kind needs."""

from __future__ import annotations

import re
from dataclasses import replace

from peftbench.errors import unknown
from peftbench.records import Task
from peftbench.suite.build_scoring import lm_eval_task, scoring
from peftbench.suite.builder import Builder
from peftbench.suite.read import KeyPath
from peftbench.suite.schema import TaskBlock
from peftbench.suite.templates import template_problems
from peftbench.suite.words import words
from peftbench.tasks import SPLITS, TASKS

_FOR_BUILTINS = ("limit", "max_new_tokens", "num_fewshot", "stop", "metric", "answer_pattern")
_TASK_NAME = re.compile(r"[A-Za-z0-9_-]+")


def build_tasks(b: Builder) -> tuple[Task, ...]:
    """Return the tasks of a suite, in its order; those with problems may be missing."""
    given = b.document.get(("tasks",))
    if not isinstance(given, dict):
        return ()  # told by the top level
    if not given:
        b.problem(("tasks",), f"no task is given; built in are {', '.join(TASKS)}")
    return tuple(task for name in given if (task := _task(b, name)) is not None)


def _task(b: Builder, name: str) -> Task | None:
    path: KeyPath = ("tasks", name)
    raw = b.document.get(path)
    if name not in TASKS and not raw:
        own = "a task of your own is a mapping with kind, train, test, prompt, target; one of lm-eval with lm_eval"
        b.problem(path, f"{unknown('task', name, TASKS)} ({own})")
        return None
    if not _TASK_NAME.fullmatch(name):
        b.problem(path, f"given the name {name!r}; allowed: letters, digits, _ and -")
    block = b.check(TaskBlock, path, {} if raw is None else raw)
    if block is None:
        return None
    if name in TASKS:
        for key in [key for key in raw or {} if key not in _FOR_BUILTINS]:
            allowed = f"{', '.join(_FOR_BUILTINS[:-1])} and {_FOR_BUILTINS[-1]}"
            text = f"{name} is a built-in task, of which only {allowed} may be set"
            b.problem((*path, key), f"{text}; give a task of your own another name")
        tokens = block.max_new_tokens or TASKS[name].max_new_tokens
        made = Task(name, TASKS[name].kind, builtin=name, max_new_tokens=tokens, limit=block.limit)
    elif block.lm_eval is not None:
        return lm_eval_task(b, name, block)
    else:
        made = _own_task(b, name, block)
    return replace(made, **scoring(b, path, block, made))


def _own_task(b: Builder, name: str, block: TaskBlock) -> Task:
    path: KeyPath = ("tasks", name)
    for key in ("kind", "prompt", "target"):
        if not getattr(block, key):
            b.problem(path, f"the key {key!r} is missing; a task needs kind, prompt, target, and train or test files")
    if block.kind == "choice" and len(set(block.choices)) < max(2, len(block.choices)):
        b.problem(path, f"a choice task needs choices: at least two different texts; given {words(block.choices)}")
    if block.kind != "choice" and block.choices:
        b.problem((*path, "choices"), f"only a choice task has choices; this one's kind is {block.kind}")
    if block.validation_fraction and (block.validation or not block.train):
        b.problem((*path, "validation_fraction"), "is cut off the train file; it needs one, and no validation file")
    if not (block.train or block.validation or block.test):
        b.problem(path, f"no file is given; allowed: {', '.join(SPLITS)}")
    for key in ("prompt", "target"):
        for problem in template_problems(getattr(block, key) or "", block.columns):
            b.problem((*path, key), problem)
    raw = b.document.get(path)
    return Task(
        name=name,
        kind=block.kind or "",
        files={split: b.resolved(raw[split]) for split in SPLITS if getattr(block, split)},
        columns=tuple(block.columns),
        prompt=block.prompt or "",
        target=block.target or "",
        choices=tuple(block.choices),
        validation_fraction=block.validation_fraction,
        max_new_tokens=block.max_new_tokens or Task.max_new_tokens,
        limit=block.limit,
    )
