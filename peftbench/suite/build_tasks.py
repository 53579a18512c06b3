"""Build ``Task`` records from ``tasks:``, each checked for what its kind needs."""

from __future__ import annotations

import re
from dataclasses import replace

from peftbench.errors import unknown
from peftbench.records import HEADS, Task
from peftbench.suite import build_heads
from peftbench.suite.build_scoring import SEARCH, lm_eval_task, scoring
from peftbench.suite.build_texts import check_encoding, check_texts
from peftbench.suite.builder import Builder
from peftbench.suite.schema import TaskBlock
from peftbench.suite.template_check import template_problems
from peftbench.suite.wording import describe_value
from peftbench.suite.yaml_lines import KeyPath
from peftbench.tasks import SPLITS, TASKS
from peftbench.tasks.templates import CHUNK_CHARACTERS, CONVERSATION, TEMPLATES

TEXT = "language_modelling"
_FOR_BUILTINS = ("limit", "max_new_tokens", *SEARCH, "num_fewshot", "stop", "metric", "more_metrics", "answer_pattern")
_TASK_NAME = re.compile(r"[A-Za-z0-9_-]+")


def build_tasks(b: Builder) -> tuple[Task, ...]:
    """Return the tasks of a suite, in the order of the file; those with problems may be missing."""
    given = b.document.get(("tasks",))
    if not isinstance(given, dict):
        return ()  # the top level has recorded the problem
    if not given:
        b.problem(("tasks",), f"no task is given; built-in tasks: {', '.join(TASKS)}")
    return tuple(task for name in given if (task := _task(b, name)) is not None)


def _task(b: Builder, name: str) -> Task | None:
    path: KeyPath = ("tasks", name)
    raw = b.document.get(path)
    if name not in TASKS and not raw:
        own = "a task of your own is a mapping with template or kind, prompt, target, and train, test or dataset"
        own += "; one of lm-eval with lm_eval"
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
            text = f"{name} is a built-in task, where only {allowed} may be set"
            b.problem((*path, key), f"{text}; give a task of your own another name")
        tokens = block.max_new_tokens or TASKS[name].max_new_tokens
        made = Task(name, TASKS[name].kind, builtin=name, max_new_tokens=tokens, limit=block.limit)
    elif block.lm_eval is not None:
        return lm_eval_task(b, name, block)
    else:
        block = _with_template(b, path, block)
        made = _own_task(b, name, block)
    return replace(made, **scoring(b, path, block, made))


def _own_task(b: Builder, name: str, block: TaskBlock) -> Task:
    path: KeyPath = ("tasks", name)
    raw = b.document.get(path)
    _check_needs(b, path, block)
    if block.several_references and block.kind != "generation":
        b.problem(
            (*path, "several_references"),
            f"only a generation task has several references; this one's kind is {block.kind}",
        )
    check_texts(b, path, block)
    _check_data(b, path, block)
    _check_cut(b, path, block)
    for key in sorted({"prompt", "prompt_pair", "target"} & set(raw)):  # ready ones accept other columns
        for problem in template_problems(getattr(block, key) or "", block.columns, bool(block.messages)):
            b.problem((*path, key), problem)
    check_encoding(b, path, block.encoding)
    text = block.kind == TEXT
    return Task(
        name=name,
        kind=block.kind or "",
        files={split: b.resolved(raw[split]) for split in SPLITS if getattr(block, split)},
        columns=tuple(block.columns),
        encoding=block.encoding,
        delimiter=block.delimiter,
        quoting=block.quoting,
        messages=block.messages,
        train_on=block.train_on or Task.train_on,
        prompt=block.prompt or "",
        prompt_pair=block.prompt_pair or "",
        target=block.target or "",
        choices=tuple(block.choices),
        validation_fraction=block.validation_fraction,
        max_new_tokens=block.max_new_tokens or Task.max_new_tokens,
        limit=block.limit,
        labels=block.labels,
        several_references=block.several_references,
        dataset=b.dataset((*path, "dataset")),
        config=block.config,
        revision=block.revision,
        splits={split: given for split, given in (block.splits or {}).items() if given and split in SPLITS},
        test_fraction=block.test_fraction,
        split_seed=block.split_seed,
        separator=block.separator,
        chat=block.chat,
        system=block.system,
        chunk_characters=(block.chunk_characters or CHUNK_CHARACTERS) if text else None,
    )


def _with_template(b: Builder, path: KeyPath, block: TaskBlock) -> TaskBlock:
    """Return a block with the values of its template for keys that it does not give, and with choices from labels."""
    if block.template is not None and block.template not in TEMPLATES:
        b.problem((*path, "template"), unknown("template", block.template, TEMPLATES))
    elif block.template is not None:
        known = TEMPLATES[block.template].block()
        if "labels" in block.model_fields_set:  # the template's choices are its own labels' words
            known.pop("choices", None)
        block = block.model_copy(
            update={key: value for key, value in known.items() if key not in block.model_fields_set}
        )
    if block.messages is not None:
        texts = zip(("prompt", "target"), CONVERSATION, strict=True)
        block = block.model_copy(update={key: text for key, text in texts if getattr(block, key) is None})
    if block.kind in ("choice", "classification") and block.labels and not block.choices:
        block = block.model_copy(update={"choices": list(dict.fromkeys(block.labels.values()))})
    return block


def _check_choices(b: Builder, path: KeyPath, block: TaskBlock) -> None:
    """Record choices that a task lacks, cannot use, or that are no text."""
    given = b.document.get((*path, "choices"))
    if block.kind in HEADS:
        build_heads.check(b, path, block)
    elif block.kind != "choice":
        if given:
            b.problem((*path, "choices"), f"only a choice task has choices; this one's kind is {block.kind}")
    elif len(set(block.choices)) < max(2, len(block.choices)):
        b.problem(
            path,
            "a choice task needs choices: at least two different texts, or labels that map a field's values to them; "
            f"given {describe_value(block.choices)}",
        )
    elif not all(choice.strip() for choice in block.choices):
        where = "choices" if given else "labels"
        b.problem((*path, where), f"given {describe_value(block.choices)}; allowed: choices that are not empty")


def _check_needs(b: Builder, path: KeyPath, block: TaskBlock) -> None:
    """Record keys that a task of its kind lacks or cannot use."""
    for key in ("kind", "prompt", "target"):
        if (
            not getattr(block, key)
            and not (key == "prompt" and block.kind == TEXT)
            and not _has_unknown_template(block)
        ):
            text = f"the key {key!r} is missing; a task needs a template, or kind, prompt and target"
            b.problem(path, f"{text}; and train or test files, or a dataset")
    _check_choices(b, path, block)
    if block.prompt_pair is not None and block.kind not in HEADS:
        text = f"only {' and '.join(HEADS)} read pairs of texts; this one's kind is {block.kind}"
        b.problem((*path, "prompt_pair"), text)
    for key in ("separator", "chunk_characters"):
        if getattr(block, key) is not None and block.kind != TEXT:
            b.problem((*path, key), f"only a {TEXT} task is cut into chunks; this one's kind is {block.kind}")
    if block.chat and block.kind == TEXT:
        b.problem((*path, "chat"), f"a {TEXT} task has no prompt, so there is no message for a chat template")
    if block.system is not None and not block.chat:
        b.problem((*path, "system"), "system is the chat template's system message; it needs chat: true")
    if block.kind == TEXT and block.prompt:
        b.problem((*path, "prompt"), f"a {TEXT} task has no prompt; its text is what target gives")


def _has_unknown_template(block: TaskBlock) -> bool:
    """Whether the block names a template that does not exist; keys that it would fill in do not count as missing."""
    return block.template is not None and block.template not in TEMPLATES


def _check_data(b: Builder, path: KeyPath, block: TaskBlock) -> None:
    """Record problems with the source of the data."""
    if not (block.train or block.validation or block.test or block.dataset):
        b.problem(path, f"no file is given; allowed: {', '.join(SPLITS)}, or a dataset with its splits")
    for key in ("config", "revision", "splits"):
        if getattr(block, key) is not None and block.dataset is None:
            b.problem((*path, key), "allowed only with the key 'dataset', which is missing")
    for key in ("encoding", "delimiter", "quoting"):
        if getattr(block, key) is not None and not any(getattr(block, split) for split in SPLITS):
            b.problem((*path, key), f"allowed only with a file ({', '.join(SPLITS)}), and none is given")
    if block.dataset and not any((block.splits or {}).values()):
        b.problem(path, "the key 'splits' is missing; it names the dataset's splits to use: {train: train, ...}")
    for split in block.splits or {}:
        if split not in SPLITS:
            b.problem((*path, "splits", split), unknown("split", split, SPLITS))


def _check_cut(b: Builder, path: KeyPath, block: TaskBlock) -> None:
    """Record problems with the splits that are cut off the training examples."""
    hub = {split for split, given in (block.splits or {}).items() if given}
    shares = {"validation": block.validation_fraction, "test": block.test_fraction}
    for split, share in shares.items():
        if share and (getattr(block, split) or split in hub or not (block.train or "train" in hub)):
            text = f"this share is cut off the train split; it needs one, and no {split} file or split"
            b.problem((*path, f"{split}_fraction"), text)
    if sum(shares.values()) >= 1:
        b.problem(
            (*path, "test_fraction"),
            f"given {describe_value(block.test_fraction)}; no examples would be left to train on",
        )
    if block.split_seed and not any(shares.values()):
        b.problem((*path, "split_seed"), "needs validation_fraction or test_fraction; neither is given")
