"""Examples as the messages of a chat, in the words of the base's own chat template. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from peftbench.errors import Unsupported
from peftbench.records import Example, Task

_ANSWER = "PEFTBENCH-ANSWER"
"""Stands for the answer while a template is filled in."""
_DATE = "26 Jul 2024"
"""Llama 3's templates write a date: the day's own would give every day other results. This is their own default."""


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
        raise Unsupported(
            f"tasks.{task.name}.chat: the base's tokenizer has no chat template; leave the key out, or take an "
            "instruct model"
        )
    return [_turned(task, e, tokenizer) for e in examples]


def _turned(task: Task, example: Example, tokenizer: Any) -> Example:
    from jinja2 import TemplateError

    messages = [{"role": "user", "content": example.prompt}, {"role": "assistant", "content": _ANSWER}]
    if task.system is not None:
        messages.insert(0, {"role": "system", "content": task.system})
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, date_string=_DATE)
    except TemplateError as error:  # many raise one for a role that they do not know
        keys = "system and chat" if task.system is not None else "chat"
        raise Unsupported(f"tasks.{task.name}: {keys}: the base's chat template refuses: {error}") from None
    prompt, found, end = text.rpartition(_ANSWER)
    if not found:
        raise Unsupported(f"tasks.{task.name}.chat: the base's chat template leaves out the assistant's answer")
    before, closed, _ = end.partition(tokenizer.eos_token or "\0")
    return replace(example, prompt=prompt, join="", end=before + closed)
