"""Conversations in the forms of OpenAI (role, content) and ShareGPT (from, value) as prompt and answer. No torch.

The last message of the assistant is the answer; the messages before it are the prompt. Messages after it are left out.
With OpenAI's ``weight: 0`` an answer is not trained on: the last cannot have it, unless every answer is trained on, and
then the last that has it not is the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from peftbench.records import Example, Task
from peftbench.tasks.values import NotText, written

_KEYS = (("role", "content"), ("from", "value"))
"""The keys of a message: who writes, and what. The first pair is OpenAI's, the second ShareGPT's."""
_ROLES: Mapping[str, str] = MappingProxyType(
    {
        "system": "system",
        "developer": "system",
        "user": "user",
        "human": "user",
        "assistant": "assistant",
        "gpt": "assistant",
        "chatgpt": "assistant",
        "bing": "assistant",
        "bard": "assistant",
        "model": "assistant",
    }
)
_CALLS = ("tool_calls", "function_call", "tool_call_id")
_TOOLS = ("tools", "functions")
_MEDIA = ("images", "image", "videos", "video", "audios", "audio")
"""Fields beside a conversation that a place in its text, such as ``<image>``, stands for."""
_HIDDEN = ("reasoning_content", "reasoning", "thinking", "audio", "images", "refusal")
"""Keys of a message with content that would be left out."""


@dataclass(frozen=True)
class Conversation:
    """A conversation up to its last answer."""

    turns: tuple[tuple[str, str], ...]
    """Role and text of the messages before the answer."""
    answer: str
    answers: int
    """Number of messages by the assistant, including the answer."""
    after: int
    """Number of messages after the answer."""
    taught: tuple[int, ...] = ()
    """Places in ``turns`` of answers that may be trained on: those with messages before them, and not of weight 0."""


def read(row: Mapping[str, Any], field: str, every: bool = False) -> Conversation:
    """Return the conversation in a field of a record.

    Args:
        row: the record.
        field: its field.
        every: whether every answer is trained on, and not the last one only.

    Raises:
        NotText: if there is none, if it has no answer, or if a message is more than text: tool calls, images, ...
    """
    given = row.get(field)
    if field not in row:
        raise NotText(f"there is no field {written(field)} with a conversation")
    if not isinstance(given, list) or not given:
        raise NotText(f"the field {written(field)} is no conversation: expected a list of messages, got {_kind(given)}")
    for key in _TOOLS:
        if row.get(key):
            raise NotText(f"the field {key} defines tools for the model, and calls of tools are not supported")
    for key in _MEDIA:
        if row.get(key):
            raise NotText(
                f"the field {key} belongs to the conversation; only text is supported, no images and no sound"
            )
    messages = [_message(message, f"{written(field)}[{index}]") for index, message in enumerate(given)]
    places = [index for index, (role, _) in enumerate(messages) if role == "assistant"]
    if not places:
        raise NotText(f"{written(field)} has no message of the assistant, which would be the answer")
    weighted = [place for place in places if _weight(given[place], f"{written(field)}[{place}]")]
    last = weighted[-1] if every and weighted else places[-1]
    if last == 0:
        raise NotText(f"{written(field)} begins with its only answer, and there is no message before it")
    if last not in weighted:
        raise NotText(f"{written(field)}[{last}], the last answer, has the weight 0: it is not to be trained on")
    taught = tuple(place for place in weighted if 0 < place < last)
    return Conversation(tuple(messages[:last]), messages[last][1], len(places), len(messages) - last - 1, taught)


def _weight(message: Mapping[str, Any], where: str) -> bool:
    """Return whether an answer may be trained on, as OpenAI's key ``weight`` says."""
    weight = message.get("weight")
    if weight not in (None, 0, 1):
        raise NotText(f"{where} has the weight {weight!r}; allowed: 0, not to be trained on, and 1")
    return weight != 0


def asked(task: Task, example: Example) -> list[dict[str, str]]:
    """Return the messages before the answer for a chat template.

    The task's system message stands first, unless the conversation has one of its own.
    """
    turns: Sequence[tuple[str, str]] = example.turns or (("user", example.prompt),)
    if task.system is not None and not any(role == "system" for role, _ in turns):
        turns = (("system", task.system), *turns)
    return [{"role": role, "content": words} for role, words in turns]


def _message(message: Any, where: str) -> tuple[str, str]:
    """Return the role and the text of a message."""
    if not isinstance(message, dict):
        raise NotText(f"{where} is no message: expected a mapping, got {_kind(message)}")
    keys = next((pair for pair in _KEYS if pair[0] in message), None)
    if keys is None:
        raise NotText(f"{where} is no message: it has neither 'role' and 'content' nor 'from' and 'value'")
    for key in (*_CALLS, *_HIDDEN):
        if message.get(key):
            what = "a call of a tool" if key in _CALLS else "content that would be left out"
            raise NotText(f"{where} has {key!r}, {what}; only text is supported")
    given = message[keys[0]]
    role = _ROLES.get(given.lower()) if isinstance(given, str) else None
    if role is None:
        raise NotText(f"{where} has the role {given!r}; allowed: {', '.join(_ROLES)} (no tools)")
    return role, _words(message.get(keys[1]), f"{where}.{keys[1]}")


def _words(content: Any, where: str) -> str:
    """Return the text of a message, which may be given in parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise NotText(f"{where} is {_kind(content)}, and only text is supported")
    parts = []
    for index, part in enumerate(content):
        words = part.get("text") if isinstance(part, dict) else None
        kind = part.get("type") if isinstance(part, dict) else _kind(part)
        if kind != "text" or not isinstance(words, str):
            raise NotText(f"{where}[{index}] is of the type {kind!r}; only text is supported, no images and no sound")
        parts.append(words)
    return "".join(parts)


def _kind(value: Any) -> str:
    names = {type(None): "null", list: "an empty list" if value == [] else "a list", dict: "a mapping", str: "a text"}
    return names.get(type(value), type(value).__name__)
