"""Tasks defined by lm-eval, given by name or as a YAML file: loaded, read as examples, hashed.

lm-eval takes seconds to import, so it is imported only when such a task is used.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import io
import json
import os
import re
from dataclasses import replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from peftbench.errors import UserError, nearest, unknown
from peftbench.records import Example, Task
from peftbench.tasks.splits import draw

_FEWSHOT_SEED = 1234
"""That of the ``lm_eval`` command."""
_NEW_TOKENS = 256
"""Number of tokens that lm-eval generates if a task gives none."""
_KINDS = {
    "multiple_choice": "choice",
    "loglikelihood": "choice",
    "generate_until": "generation",
    "loglikelihood_rolling": "language_modelling",
}
"""lm-eval's output type -> the kind of task that uses a model in the same way."""
_PLACES = ("task", "dataset_path", "dataset_name", "dataset_kwargs", "custom_dataset", "metadata")
"""Keys of a configuration for the location of documents, which do not enter the hash."""


def build(task: Task) -> Any:
    """Return lm-eval's task with the suite's settings applied and the few-shot seed set.

    Raises:
        UserError: if the task does not exist, its documents cannot be loaded, or its type is not supported.
    """
    found = _loaded(str(task.lm_eval), task.name)
    config = found.config
    if task.num_fewshot is not None:
        found.set_config("num_fewshot", task.num_fewshot)
    if found.OUTPUT_TYPE == "generate_until":
        given = {"max_gen_toks": task.max_new_tokens, "until": list(task.stop or ())}
        found.set_config(
            "generation_kwargs", {**(config.generation_kwargs or {}), **{k: v for k, v in given.items() if v}}
        )
    if task.metric and found.OUTPUT_TYPE != "loglikelihood_rolling":
        name, metrics = task.metric.partition(",")[0], list(found.aggregation())
        if name not in metrics:
            raise UserError(f"{_subject(task.name, task.lm_eval)}: {unknown('metric', name, metrics)}")
    found.set_fewshot_seed(_FEWSHOT_SEED)
    return found


def stand_in(task: Task) -> Task:
    """Return a task of one of peftbench's kinds with the same memory and length requirements."""
    found = build(task)
    kwargs = (found.config.generation_kwargs if found.OUTPUT_TYPE == "generate_until" else None) or {}
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    tokens = next((int(kwargs[name]) for name in names if name in kwargs), _NEW_TOKENS)
    beams = int(kwargs.get("num_beams") or 1)
    made = replace(task, kind=_KINDS[found.OUTPUT_TYPE], lm_eval=None, max_new_tokens=tokens, metric=None)
    return replace(made, num_beams=beams)


def examples(task: Task) -> list[Example]:
    """Return each document's prompt, with few-shot examples, and right answer as an example."""
    found = build(task)
    return [_example(found, each) for each in _asked(task, found)]


def fingerprint(task: Task) -> str:
    """Return the SHA-256 of a task's configuration and requests, independent of where its documents are stored."""
    found = build(task)
    config = {k: v for k, v in found.dump_config().items() if k not in _PLACES}
    records = [[r.request_type, r.args, r.doc] for each in _asked(task, found) for r in each]
    text = json.dumps([task.name, found.VERSION, config, records], sort_keys=True, default=_source)
    return hashlib.sha256(text.encode()).hexdigest()


def samples(task: Task, found: Any) -> list[int] | None:
    """Return which documents the task's limit keeps, as for tasks of files; None for all.

    Args:
        task: the suite's task.
        found: lm-eval's task.
    """
    size = len(found.eval_docs)
    return None if task.limit is None or task.limit >= size else draw(size, task.limit)


def _asked(task: Task, found: Any) -> list[list[Any]]:
    """Return the requests of each document, in order."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # progress bars
            found.build_all_requests(samples=samples(task, found), rank=0, world_size=1)
    except Exception as error:  # templates and functions of the task may raise anything
        raise UserError(f"{_subject(task.name, task.lm_eval)}: its prompts cannot be made: {_line(error)}") from error
    return [list(each) for _, each in groupby(found.instances, key=lambda request: request.doc_id)]


def _example(found: Any, requests: list[Any]) -> Example:
    first, doc = requests[0], requests[0].doc
    if found.OUTPUT_TYPE == "loglikelihood_rolling":
        return Example("", first.args[0])
    if found.OUTPUT_TYPE == "loglikelihood":
        return Example(first.args[0], first.args[1], (first.args[1],))
    choices = tuple(found.doc_to_choice(doc)) if found.config.doc_to_choice is not None else ()
    # if the choices are prompts, doc_to_text gives the index of the right one
    gold = found.doc_to_text(doc) if getattr(found, "multiple_input", 0) else found.doc_to_target(doc)
    right = [_text(one, choices) for one in (gold if isinstance(gold, list) else [gold])]
    if found.OUTPUT_TYPE == "multiple_choice":
        return Example(first.args[0], right[0], choices)
    return Example(first.args[0], right[0], (), tuple(right))


def _text(gold: Any, choices: tuple[str, ...]) -> str:
    """Return a right answer as text; lm-eval gives an index if there are choices."""
    if isinstance(gold, int) and choices:
        return choices[gold] if gold < len(choices) else ""
    return str(gold)


@cache
def _loaded(source: str, name: str) -> Any:
    """Return lm-eval's task as it is defined."""
    from lm_eval.tasks import TaskManager

    subject = _subject(name, source)
    path = _file(source, subject).resolve()
    try:
        # relative paths of data start at the file's folder; standard error would show progress bars
        with contextlib.chdir(path.parent), contextlib.redirect_stderr(io.StringIO()):
            found = list(TaskManager(include_defaults=False).load(str(path))["tasks"].values())
    except Exception as error:  # sources, parsers and functions may raise anything
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        raise UserError(f"{subject} or its data cannot be loaded{offline}: {_line(error)}") from error
    if len(found) != 1:
        raise UserError(f"{subject}: it is a group of {len(found)} tasks; name one of them")
    (one,) = found
    if getattr(one, "MULTIMODAL", False) or one.OUTPUT_TYPE not in _KINDS:
        raise UserError(f"{subject}: it needs more than text; allowed: tasks of type {', '.join(_KINDS)}")
    if getattr(one, "UNSAFE_CODE", False):
        raise UserError(f"{subject}: it runs code that the model wrote, which is not done here")
    return one


@cache
def _files() -> dict[str, Path]:
    """Return the file of each of lm-eval's tasks. A text search takes 1 s; parsing all files as YAML takes 9 s."""
    import lm_eval.tasks

    line = re.compile(r"^['\"]?task['\"]?:[ \t]*(['\"]?)([^\s'\"#\[{]+)\1[ \t]*(?:#.*)?$", re.MULTILINE)
    found: dict[str, Path] = {}
    for path in sorted(Path(lm_eval.tasks.__file__).parent.glob("**/*.yaml"), key=Path.as_posix):
        for match in line.finditer(path.read_text(encoding="utf-8", errors="replace")):
            found.setdefault(match[2], path)
    return found


def _file(source: str, subject: str) -> Path:
    """Return the YAML file of a task, given as a path or by its name in lm-eval."""
    if source.endswith((".yaml", ".yml")):
        return Path(source)
    if source not in _files():
        near = nearest(source, _files())
        hint = f"; did you mean {near!r}?" if near else ""
        raise UserError(f"{subject}: neither a YAML file nor one task of lm-eval (a group is several){hint}")
    return _files()[source]


def _subject(name: str, source: str | None) -> str:
    """Return the beginning of an error message about a task."""
    return f"task {name!r}: lm-eval's task {Path(str(source)).name!r}"


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _source(value: Any) -> str:
    """Return a value that JSON cannot represent as text; for a function its source, the same on every machine."""
    if not callable(value):
        return str(value)
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        return str(getattr(value, "__qualname__", type(value).__name__))
