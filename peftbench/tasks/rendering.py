"""Records through a task's templates to prompts and answers. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import nodes

from peftbench.errors import UserError
from peftbench.records import Task
from peftbench.tasks import conversations
from peftbench.tasks.conversations import Conversation
from peftbench.tasks.sandbox import Sandbox
from peftbench.tasks.values import NotText, context, written

_SHOWN_FIELDS = 20
_ONE_EXPRESSION = re.compile(r"\{\{-?\s*((?:(?!\{\{|\}\}).)+?)\s*-?\}\}")
_LONGEST = 60
"""Characters of a field's name that a message shows: without a header, names are values."""


@dataclass(frozen=True)
class Rendered:
    """The texts of one record."""

    prompt: str
    content: str
    """The prompt without the template's own words."""
    targets: tuple[str, ...]
    """The right answers; the first is trained on."""
    conversation: Conversation | None = None
    second: str = ""
    """The second text of a pair; empty if there is only one."""


class Broken(Exception):
    """A record that a template cannot make into texts. The message names the template and what is wrong."""


class Templates:
    """The compiled templates of a task.

    Raises:
        UserError: if a template is none.
    """

    def __init__(self, task: Task) -> None:
        self._task = task
        self._messages, self._every = task.messages, task.train_on == "every_answer"
        self._sandbox = Sandbox()
        try:
            tree = self._sandbox.parse(task.prompt)
            for words in tree.find_all(nodes.TemplateData):
                words.data = "\n"
            self._prompt = self._sandbox.compiled(task.prompt)
            self._second = self._sandbox.compiled(task.prompt_pair) if task.prompt_pair else None
            self._content = self._sandbox.compiled(tree)
            self._is_expression = _is_expression(self._sandbox.parse(task.target))
            self._target = self._sandbox.compiled(task.target)
        except Exception as error:  # Jinja's own errors, and Python's of depth and size
            why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
            raise UserError(f"task {task.name!r}: a template cannot be read: {why}") from None

    def render(self, row: Mapping[str, Any]) -> Rendered:
        """Return the texts of a record.

        Raises:
            Broken: if a template fails, or gives something that is no text.
        """
        try:
            found = conversations.read(row, self._messages, self._every) if self._messages else None
        except NotText as error:
            raise Broken(str(error)) from None
        seen = context(row)
        if found is not None:
            seen |= {"turns": found.turns, "answer": found.answer}
        size = _size(row)
        targets = self._targets(seen, size)
        prompt = self._text("prompt", self._prompt, seen, size).rstrip()
        if found is not None:
            content = "\n".join(words for _, words in found.turns)
        else:
            content = self._text("prompt", self._content, seen, size).strip()
        if self._second is None:
            return Rendered(prompt, content, targets, found)
        second = self._text("prompt_pair", self._second, seen, size).strip()
        return Rendered(prompt, f"{content}\n{second}", targets, found, second)

    def _text(self, key: str, template: Any, seen: Mapping[str, Any], size: int) -> str:
        self._sandbox.budget.start(size)
        try:
            return str(template.render(seen))
        except NotText as error:
            if key == "target" and self._is_expression and isinstance(error.value, list):
                raise
            if key == "target" and error.null and self._task.kind != "language_modelling":
                raise Broken(
                    f"{key}: the field {error.null} is null; {without_answer(self._task, error.null)}"
                ) from None
            raise Broken(f"{key}: {error}") from None
        except RecursionError:
            raise Broken(f"{key}: a template failed: it is nested too deeply") from None
        except Exception as error:  # expressions and filters in a template may raise anything
            raise Broken(f"{key}: a template failed: {error}; {_fields(seen)}") from None

    def _targets(self, seen: Mapping[str, Any], size: int) -> tuple[str, ...]:
        """Return the right answers that the target gives: one, or the texts of a list."""
        try:
            return (self._text("target", self._target, seen, size).strip(),)
        except NotText as error:
            given = error.value
        if not given:
            raise Broken("target: it gives an empty list, without a right answer")
        for value in given:
            if not isinstance(value, (str, int, float)) or isinstance(value, bool):
                raise Broken(f"target: it gives a list with {type(value).__name__.lower()}; allowed: a list of texts")
        return tuple(str(value).strip() for value in given)


def without_answer(task: Task, expression: str | None = None) -> str:
    """Return what to do about an example without an answer, for a message.

    Args:
        task: the task.
        expression: what gave no answer, as a template writes it; None for the whole target.
    """
    found = _ONE_EXPRESSION.fullmatch(task.target.strip())
    inner = expression or (found and found[1])
    allowed = list(task.labels or task.choices)
    way = f': target: "{{{{ {inner} or {(allowed or ["none"])[0]!r} }}}}"' if inner else ""
    listed = f" (allowed: {', '.join(sorted(allowed))})" if allowed else ""
    return f"leave the example out of the data, or give it an answer in the template{way}{listed}"


def _is_expression(tree: nodes.Template) -> bool:
    """Return whether a template is one expression and nothing else."""
    parts = [part for output in tree.body if isinstance(output, nodes.Output) for part in output.nodes]
    rest = [part for part in parts if not (isinstance(part, nodes.TemplateData) and not part.data.strip())]
    return len(rest) == 1 and not isinstance(rest[0], nodes.TemplateData) and _are_outputs(tree.body)


def _are_outputs(body: Iterable[nodes.Node]) -> bool:
    return all(isinstance(node, nodes.Output) for node in body)


def _size(value: Any) -> int:
    """Return the number of characters in a record."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 1


def _fields(seen: Mapping[str, Any]) -> str:
    """Return the fields of an example for a message."""
    names = [written(name if len(name) <= _LONGEST else f"{name[:_LONGEST]}...") for name in seen.get("row", seen)]
    return f"the example has the fields: {', '.join(names[:_SHOWN_FIELDS])}"
