"""Checks of a task's block about texts: what can be encoded, and conversations."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from typing import Any

from peftbench.suite.builder import Builder
from peftbench.suite.schema import TaskBlock
from peftbench.suite.yaml_lines import KeyPath
from peftbench.tasks import encodable

_DECODED = ("exact_match", "generation")


def check_encoding(b: Builder, path: KeyPath, encoding: str | None) -> None:
    """Record an encoding that Python does not know, or that is none of text."""
    if encoding is None:
        return
    try:
        known = codecs.lookup(encoding)._is_text_encoding
    except (LookupError, ValueError):  # a ValueError for NUL
        known = False
    if not known:
        text = f"given {encoding!r}; allowed: a character encoding that Python knows, such as utf-8, utf-16 or cp1252"
        b.problem((*path, "encoding"), text)


def check_texts(b: Builder, path: KeyPath, block: TaskBlock) -> None:
    """Record texts of a block that cannot be encoded, and keys that do not go with a conversation."""
    raw = b.document.get(path)
    for where, text in _texts(raw if isinstance(raw, dict) else {}, path):
        problem = encodable.problem(text)
        if problem:
            b.problem(where, f"given {text[:80]!r}: {problem}")
    if block.messages is None:
        if block.train_on is not None:
            b.problem((*path, "train_on"), "only a conversation has several answers: give messages, its field")
        return
    if block.train_on == "every_answer" and not block.chat:
        b.problem(
            (*path, "train_on"),
            "every_answer needs chat: true: without a chat template an earlier answer has no end that could be learned",
        )
    if block.kind not in (None, *_DECODED):
        b.problem((*path, "messages"), f"the answer of a conversation is decoded; this task's kind is {block.kind}")
    if block.chat and "prompt" in raw:
        b.problem((*path, "prompt"), "under chat: true the conversation is the prompt, for the chat template")
    if block.num_fewshot:
        b.problem((*path, "num_fewshot"), "a conversation takes no few-shot examples")


def _texts(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """Yield every text in a block with its path; a key counts as a text."""
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield path, str(key)
            yield from _texts(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, (*path, index))
