"""A suite in the making, and its text: YAML that says why each value is what it is. No torch."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from peftbench.commands.first_suite.given import NOTHING_GIVEN, Given

_PLAIN = re.compile(r"(\.{0,2}/)?[A-Za-z][A-Za-z0-9_./-]*")
_RESERVED = ("true", "false", "null", "yes", "no", "on", "off", "y", "n", "none")
_WIDTH = 118
_COMMENT_FROM = 34
"""Column at which comments stand beside short lines."""
ONE_LINE = 8
"""Most classes that are listed in one line."""


@dataclass(frozen=True)
class MethodLine:
    """A method of the suite."""

    name: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    comment: str = ""


@dataclass(frozen=True)
class Draft:
    """Everything that a written suite says."""

    description: str
    base: str
    task: str
    block: Mapping[str, Any]
    """The task's block, files included."""
    methods: tuple[MethodLine, ...]
    classes: Mapping[str, int] = field(default_factory=dict)
    """Class -> records, for comments."""
    examples: Mapping[str, str] = field(default_factory=dict)
    """Class -> the beginning of a text, for comments."""
    comments: Mapping[str, str] = field(default_factory=dict)
    """Key -> its comment."""
    head: tuple[str, ...] = ()
    """Lines of comment at the top."""
    warning: str = ""
    """What has to be known before anything else, as the first line."""
    left_out: tuple[tuple[str, str], ...] = ()
    """(method, why it is not in the suite)."""
    given: Given = NOTHING_GIVEN
    """What the user has fixed."""
    seeds: int | tuple[int, ...] = 3
    """How many, or which."""
    steps: int | None = None
    batch_size: int = 16
    micro_batch_size: int | None = None
    gradient_checkpointing: bool = False
    sequence_length: int | None = None
    search: bool = False
    max_length: int | None = None
    finds_batch: bool = False
    """Whether scoring finds the largest batch that fits."""

    @property
    def seed_count(self) -> int:
        """How many seeds each method has."""
        return self.seeds if isinstance(self.seeds, int) else len(self.seeds)


def text(draft: Draft) -> str:
    """Return a draft as the text of a suite file."""
    return "\n".join([*_lines(draft), ""])


def _lines(draft: Draft) -> Iterator[str]:
    for line in (*([draft.warning] if draft.warning else []), *draft.head):
        yield from _wrapped(line, "# ")
    yield ""
    yield f"description: {scalar(draft.description)}"
    yield ""
    yield _beside(f"base: {scalar(draft.base)}", draft.comments.get("base", ""))
    yield ""
    yield "tasks:"
    yield f"  {scalar(draft.task)}:"
    for key, value in draft.block.items():
        if key in ("labels", "choices"):
            yield from _classes(key, value, draft)
        else:
            yield _beside(f"    {key}: {scalar(value)}", draft.comments.get(key, ""))
    yield ""
    yield _beside(f"seeds: {scalar(draft.seeds)}", draft.comments.get("seeds", ""))
    yield ""
    yield "train: # the same for every method"
    train = {
        "steps": draft.steps,
        "batch_size": draft.batch_size,
        "micro_batch_size": draft.micro_batch_size,
        "gradient_checkpointing": draft.gradient_checkpointing or None,
        "sequence_length": draft.sequence_length,
        "learning_rate": "search" if draft.search else None,
    }
    for key, value in train.items():
        if value is not None:
            yield _beside(f"  {key}: {scalar(value)}", draft.comments.get(key, ""))
    yield from _evaluate(draft)
    yield ""
    yield "methods:"
    for method in draft.methods:
        given = ", ".join(f"{key}: {scalar(value)}" for key, value in method.settings.items())
        yield _beside(f"  {method.name}:" + (f" {{ {given} }}" if given else ""), method.comment)
    for name, why in draft.left_out:
        yield from _wrapped(f"{name}: left out, {why}", "  # ")


def _evaluate(draft: Draft) -> Iterator[str]:
    if draft.max_length is not None or draft.finds_batch:
        yield ""
        yield "evaluate:"
    if draft.finds_batch:
        yield _beside("  batch_size: auto", "as many prompts at a time as fit; changes no score")
    if draft.max_length is not None:
        yield _beside(f"  max_length: {draft.max_length}", draft.comments.get("max_length", ""))


def _classes(key: str, value: Any, draft: Draft) -> Iterator[str]:
    """Yield labels or choices: a few in one line, else one a line with its number of records."""
    if not isinstance(value, Mapping):
        line = f"    {key}: [{', '.join(map(scalar, value))}]"
        if len(value) <= ONE_LINE and len(line) <= _WIDTH:
            yield from _wrapped(draft.comments.get(key, ""), "    # ")
            yield line
            return
    yield from _wrapped(draft.comments.get(key, ""), "    # ")
    yield f"    {key}:"
    names = list(value)
    for name in names:
        shown = f"{quoted(name)}: {scalar(value[name])}" if isinstance(value, Mapping) else f"- {scalar(name)}"
        count, text = draft.classes.get(name, 0), draft.examples.get(name, "")
        about = [f"{count:,} records"] + ([text] if text and isinstance(value, Mapping) else [])
        yield _beside(f"      {shown}", ": ".join(about))


def _beside(line: str, comment: str) -> str:
    """Return a line with its comment: beside it if both fit, else above."""
    if not comment:
        return line
    comment = _printable(comment)
    both = f"{line.ljust(_COMMENT_FROM) if len(line) < _COMMENT_FROM else line} # {comment}"
    if len(both) <= _WIDTH:
        return both
    indent = " " * (len(line) - len(line.lstrip()))
    return "\n".join([*_wrapped(comment, f"{indent}# "), line])


def _wrapped(comment: str, indent: str) -> list[str]:
    return textwrap.wrap(
        _printable(comment), _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def scalar(value: Any) -> str:
    """Return a value as YAML writes it: plain where that is safe, else in double quotes."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:g}" if "e" not in f"{value:g}" or "." in f"{value:g}" else f"{value:.1e}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(scalar, value))}]"
    word = str(value)
    return word if _PLAIN.fullmatch(word) and word.lower() not in _RESERVED else quoted(word)


def quoted(word: str) -> str:
    """Return text in double quotes; what would name an environment variable is escaped."""
    return "".join(
        character if character.isprintable() else _escaped(character)
        for character in json.dumps(word.replace("${", "$${"), ensure_ascii=False)
    )


def _escaped(character: str) -> str:
    """Return a character that YAML does not print, or takes as a line break, as its escape in double quotes."""
    code = ord(character)
    return f"\\U{code:08x}" if code > 0xFFFF else f"\\u{code:04x}"


def _printable(comment: str) -> str:
    """Return text for a comment, in which characters that would end it or are not allowed in YAML are escapes."""
    return "".join(c if c.isprintable() else " " if c.isspace() else _escaped(c) for c in comment)
