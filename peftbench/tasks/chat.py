"""Examples as chat messages, formatted by the base model's chat template. No torch."""

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
"""Placeholder for the answer while a template is rendered."""
_DAY = datetime(2024, 7, 26)
"""The date for templates that write one, since the current date would change results daily: Llama 3's default."""
_NOW = re.compile(r"""\bstrftime_now\(\s*(?P<quote>['"])(?P<format>(?:(?!(?P=quote))[^\\])*)(?P=quote)\s*\)""")
"""A template's call for the current date. It is replaced in the text, as newer transformers accept no function."""
_ASKED = re.compile(r"\bstrftime_now\b(?!\s+is\b)")
"""Any remaining use of the current date, other than the test ``strftime_now is defined``."""
_OF_CODE = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError)
"""Exceptions that the code in a template may raise."""


def apply(task: Task, examples: Sequence[Example], tokenizer: Any) -> list[Example]:
    """Return the examples of a ``chat`` task formatted by the chat template; those of other tasks unchanged.

    The new prompt is everything before the assistant's answer: the system message, the prompt as the user's message,
    and the start of the answer, including an empty thinking block. ``end`` is everything after the answer, up to the
    end-of-text token if there is one. Training and evaluation use the same texts.

    Raises:
        Unsupported: if the tokenizer has no chat template, or it cannot format the task's messages.
    """
    if not task.chat:
        return list(examples)
    if not getattr(tokenizer, "chat_template", None):
        raise Unsupported(_missing(task))
    template = _dated(task, tokenizer)
    return [_turned(task, e, tokenizer, template) for e in examples]


def check(tasks: Iterable[Task], folder: Path) -> None:
    """Check that a model folder has a chat template if a task needs one, without loading the tokenizer.

    Raises:
        Unsupported: if a ``chat`` task is given and the folder has no chat template.
    """
    asking = [task for task in tasks if task.chat]
    if not asking or any((folder / name).exists() for name in ("chat_template.jinja", "additional_chat_templates")):
        return
    try:
        found = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # reported by the code that needs it
        return
    if not found.get("chat_template"):
        raise Unsupported(_missing(asking[0]))


def _missing(task: Task) -> str:
    return f"tasks.{task.name}.chat: the base's tokenizer has no chat template; remove `chat`, or use an instruct model"


def _dated(task: Task, tokenizer: Any) -> str:
    """Return the tokenizer's chat template with a fixed date in place of the current one."""
    try:
        template = _NOW.sub(lambda found: repr(_DAY.strftime(found["format"])), tokenizer.get_chat_template())
    except ValueError as error:  # several templates, none of them the default
        raise Unsupported(f"tasks.{task.name}.chat: {error}") from None
    if _ASKED.search(template):
        raise Unsupported(
            f"tasks.{task.name}.chat: the base's chat template writes today's date in a way that cannot be "
            "fixed (strftime_now without a format in quotes), so results would change from day to day"
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
    except (TemplateError, *_OF_CODE) as error:  # many templates raise an error for an unknown role
        keys = "system and chat" if task.system is not None else "chat"
        raise Unsupported(f"tasks.{task.name}: {keys}: the base's chat template refuses: {error}") from None
    prompt, found, end = text.rpartition(_ANSWER)
    if not found:
        raise Unsupported(f"tasks.{task.name}.chat: the base's chat template leaves out the assistant's answer")
    before, closed, _ = end.partition(tokenizer.eos_token or "\0")
    return replace(example, prompt=prompt, join="", end=before + closed)
