"""Examples as the messages of a chat, in the words of the base's own chat template. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from peftbench.errors import Unsupported
from peftbench.records import Example, Task

_ANSWER = "PEFTBENCH-ANSWER"
"""Stands for the answer while a template is filled in."""
_DAY = datetime(2024, 7, 26)
"""Many templates write a date: the day's own would give every day other results. This is Llama 3's own default."""
_NOW = re.compile(r"""\bstrftime_now\(\s*(?P<quote>['"])(?P<format>(?:(?!(?P=quote))[^\\])*)(?P=quote)\s*\)""")
"""How they ask for it. Newer transformers hand on plain data only, and drop a function given in its place."""
_ASKED = re.compile(r"\bstrftime_now\b(?!\s+is\b)")
"""That they still do; ``strftime_now is defined`` asks for nothing."""
_OF_CODE = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError)
"""What a template's code may raise."""


def apply(task: Task, examples: Sequence[Example], tokenizer: Any) -> list[Example]:
    """Return the examples of a ``chat`` task between the template's own words, those of other tasks as they are.

    The prompt becomes all that stands before the assistant's answer: the task's system message, the prompt as the
    user's message, what opens the answer. ``end`` becomes what closes it, up to the end-of-text token where that is
    among it. Training and evaluation read the same texts; an empty thinking block before the answer is prompt too.

    Raises:
        Unsupported: if the tokenizer has no chat template, or it cannot put the task's messages into words.
    """
    if not task.chat:
        return list(examples)
    if not getattr(tokenizer, "chat_template", None):
        raise Unsupported(_missing(task))
    template = _dated(task, tokenizer)
    return [_turned(task, e, tokenizer, template) for e in examples]


def check(tasks: Iterable[Task], folder: Path) -> None:
    """See that a model's folder has the chat template that tasks ask for, without loading its tokenizer.

    Raises:
        Unsupported: if a task is a chat and the folder has none.
    """
    asking = [task for task in tasks if task.chat]
    if not asking or any((folder / name).exists() for name in ("chat_template.jinja", "additional_chat_templates")):
        return
    try:
        found = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # told by what needs it
        return
    if not found.get("chat_template"):
        raise Unsupported(_missing(asking[0]))


def _missing(task: Task) -> str:
    return (
        f"tasks.{task.name}.chat: the base's tokenizer has no chat template; leave the key out, or take an instruct "
        "model"
    )


def _dated(task: Task, tokenizer: Any) -> str:
    """Return the tokenizer's chat template with a day of our own wherever it asks for today's."""
    try:
        template = _NOW.sub(lambda found: repr(_DAY.strftime(found["format"])), tokenizer.get_chat_template())
    except ValueError as error:  # several templates, none of them the default
        raise Unsupported(f"tasks.{task.name}.chat: {error}") from None
    if _ASKED.search(template):
        raise Unsupported(
            f"tasks.{task.name}.chat: the base's chat template writes today's date in a way in which it cannot be "
            "fixed (strftime_now without a format in quotes), so every day would give other results"
        )
    return template


def _turned(task: Task, example: Example, tokenizer: Any, template: str) -> Example:
    from jinja2 import TemplateError

    messages = [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": _ANSWER}]
    if task.system is not None:
        messages.insert(0, {"role": "system", "content": task.system})
    try:
        text = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, date_string=f"{_DAY:%d %b %Y}"
        )
    except (TemplateError, *_OF_CODE) as error:  # many raise one for a role that they do not know
        keys = "system and chat" if task.system is not None else "chat"
        raise Unsupported(f"tasks.{task.name}: {keys}: the base's chat template refuses: {error}") from None
    prompt, found, end = text.rpartition(_ANSWER)
    if not found:
        raise Unsupported(f"tasks.{task.name}.chat: the base's chat template leaves out the assistant's answer")
    before, closed, _ = end.partition(tokenizer.eos_token or "\0")
    return replace(example, prompt=prompt, join="", end=before + closed)
