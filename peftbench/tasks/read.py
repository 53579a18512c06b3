"""Read a task's examples: generated, or from files or a dataset through its templates. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from peftbench.errors import UserError, unknown
from peftbench.records import Example, Task
from peftbench.records.resolve import resolve
from peftbench.tasks import DEFAULT_TEST_SEED, TASKS, files, hub
from peftbench.tasks.chunks import chunks
from peftbench.tasks.splits import cut, is_cut, splits, with_all_references
from peftbench.tasks.templates import CHUNK_CHARACTERS

__all__ = ["Reader", "examples", "fingerprint", "splits"]

Reader = Callable[[Task, str], Sequence[Example]]
"""Gives the examples of a task's split."""
_SHOWN_FIELDS = 20


def examples(task: Task, split: str) -> list[Example]:
    """Return the examples of a split in the order of the data; ``limit`` applies to every split except train.

    Raises:
        UserError: if the split does not exist; if its data is missing, empty or unreadable; if a template uses a field
            that the data does not have; or if an answer is not among the labels or choices.
    """
    if split not in splits(task):
        raise UserError(f"task {task.name!r}: " + unknown("split", split, splits(task)))
    if task.lm_eval:
        return resolve("peftbench.tasks.lm_eval_tasks:examples")(task)  # it imports lm-eval
    if task.builtin:
        seed = DEFAULT_TEST_SEED if task.test_seed is None else task.test_seed
        found: list[Example] = resolve(TASKS[task.builtin].examples)(split, seed)
    else:
        found = cut(task, _given(task, "train"), split) if is_cut(task, split) else _given(task, split)
        if task.several_references and split != "train":
            found = with_all_references(found)
    return found if split == "train" or task.limit is None else found[: task.limit]


def fingerprint(tasks: Sequence[Task], reader: Reader = examples) -> str:
    """Return the SHA-256 of all examples of all splits of the tasks, and of how they are scored.

    Args:
        tasks: the tasks.
        reader: returns the examples of a task's split: ``examples`` or a cached version of it.
    """
    digest = hashlib.sha256()
    for task in tasks:
        if task.lm_eval:
            digest.update(resolve("peftbench.tasks.lm_eval_tasks:fingerprint")(task).encode())
            continue
        digest.update(json.dumps([task.name, task.kind, task.max_new_tokens]).encode())
        for split in splits(task):
            for e in reader(task, split):
                record = [split, e.prompt, e.target, e.choices, e.references, e.slots]
                record += [] if e.join == Example.join else [e.join]
                digest.update(json.dumps(record, ensure_ascii=False).encode())
    return digest.hexdigest()


def _given(task: Task, split: str) -> list[Example]:
    """Return the examples of a split that is given by a file or the dataset."""
    if split in task.files:
        path = Path(task.files[split])
        return _render(task, path.name, files.rows(task, path))
    return _render(task, f"{task.dataset} {task.splits[split]}", hub.rows(task, split))


def _render(task: Task, source: str, rows: Sequence[dict[str, Any]]) -> list[Example]:
    """Return records as examples.

    Args:
        task: the task with its templates.
        source: name of the file or dataset, for messages.
        rows: the records of the data.
    """
    prompt, content, target = _templates(task)
    found = []
    for number, row in enumerate(rows, 1):
        where = f"task {task.name!r}: {source}, example {number}"
        try:
            answer = target.render(row).strip()
            read, own = prompt.render(row).rstrip(), content.render(row).strip()
        except Exception as error:  # expressions and filters in a template may raise anything
            fields = ", ".join(list(row)[:_SHOWN_FIELDS])
            headless = Path(source).suffix in (".csv", ".tsv") and not task.columns
            hint = " (if that is the first example, the file has no header: give its columns)" if headless else ""
            raise UserError(
                f"{where}: a template failed: {error}; the example has the fields: {fields}{hint}"
            ) from None
        if task.labels:
            if answer not in task.labels:
                raise UserError(f"{where}: " + unknown("label", answer, task.labels))
            answer = task.labels[answer]
        if task.choices and answer not in task.choices:
            raise UserError(f"{where}: " + unknown("answer", answer, task.choices))
        found.append(Example(read, answer, task.choices, (answer,), content=own))
    return _chunked(task, found) if task.kind == "language_modelling" else found


def _templates(task: Task) -> tuple[Any, Any, Any]:
    """Return the templates of the prompt, of the prompt's content (without its fixed text), and of the target."""
    from jinja2 import StrictUndefined, TemplateError, nodes
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(undefined=StrictUndefined)
    try:
        tree = environment.parse(task.prompt)
        for words in tree.find_all(nodes.TemplateData):
            words.data = "\n"
        return environment.from_string(task.prompt), environment.from_string(tree), environment.from_string(task.target)
    except TemplateError as error:
        raise UserError(f"task {task.name!r}: a template cannot be read: {error}") from None


def _chunked(task: Task, found: Iterable[Example]) -> list[Example]:
    """Return texts as chunks, each an example with an empty prompt."""
    texts = chunks((e.target for e in found), task.separator, task.chunk_characters or CHUNK_CHARACTERS)
    return [Example("", text, join="", references=(text,)) for text in texts]
