"""Examples as chat messages, formatted by the base model's chat template. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from peftbench.errors import Unsupported
from peftbench.records import Example, Task
from peftbench.tasks import conversations, read

_ANSWER = "70635241807060504"
"""Placeholder for the answer while a template is rendered: digits, which no filter for letters or markup changes."""
_DAY = datetime(2024, 7, 26)
"""The date for templates that write one, since the current date would change results daily: Llama 3's default."""
_NOW = re.compile(r"""\bstrftime_now\(\s*(?P<quote>['"])(?P<format>(?:(?!(?P=quote))[^\\])*)(?P=quote)\s*\)""")
"""A template's call for the current date. It is replaced in the text, as newer transformers accept no function."""
_ASKED = re.compile(r"\bstrftime_now\b(?!\s+is\b)")
"""Any remaining use of the current date, other than the test ``strftime_now is defined``."""
_SPACES = " \t"
_OF_CODE = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError)
"""Exceptions that the code in a template may raise."""


def apply(task: Task, examples: Sequence[Example], tokenizer: Any) -> list[Example]:
    """Return the examples of a ``chat`` task formatted by the chat template; those of other tasks unchanged.

    Prompt, answer and end together are what the template writes with the answer in place, up to the end-of-text token.
    The new prompt is everything before the assistant's answer: the system message, the prompt as the user's message,
    and the start of the answer, including an empty thinking block. It never depends on the answer: if the template
    writes another start for some answer in any split of the task (as for an answer with a thinking block of its own),
    all prompts end where the template's generation prompt ends. Answers are as the template writes them: it may trim
    them, or remove their thinking. ``end`` is everything after the answer, up to the end-of-text token if there is one.
    Spaces between prompt and answer are ``join``, since tokenizers join them to the answer's first word.
    Training and evaluation use the same texts.

    Raises:
        Unsupported: if the tokenizer has no chat template; if it cannot format the task's messages; if it writes
            nothing of an answer, or two choices alike; or if what it writes before an answer depends on the answer.
    """
    if not task.chat:
        return list(examples)
    if not getattr(tokenizer, "chat_template", None):
        raise Unsupported(_missing(task))
    template = _Template(task, tokenizer, _dated(task, tokenizer))
    found = [template.turn(e) for e in examples]
    prompts = template.prompts(found)
    made = [template.written(turn, prompt, i) for i, (turn, prompt) in enumerate(zip(found, prompts, strict=True))]
    return [template.with_earlier(e, each, i) for i, (e, each) in enumerate(zip(examples, made, strict=True))]


def endings(examples: Iterable[Example], eos: str | None) -> tuple[str, ...]:
    """Return the texts that end the answers of chat examples, other than end-of-text and white space.

    Training teaches them after the answer; in decoding they end it, and are no part of it.
    """
    ends = dict.fromkeys(e.end.removesuffix(eos or "").strip() for e in examples)
    return tuple(end for end in ends if end)


def check(tasks: Iterable[Task], folder: Path) -> None:
    """Check that a model folder has a chat template if a task needs one, without loading the tokenizer.

    Raises:
        Unsupported: if a ``chat`` task is given and the folder has no chat template.
    """
    without = next((task for task in tasks if not has_template(task, folder)), None)
    if without:
        raise Unsupported(_missing(without))


def has_template(task: Task, folder: Path) -> bool:
    """Return whether a task needs no chat template or a model folder has one; True if its files cannot be read."""
    if not task.chat or any((folder / name).exists() for name in ("chat_template.jinja", "additional_chat_templates")):
        return True
    try:
        found = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # reported by the code that needs it
        return True
    return not isinstance(found, dict) or bool(found.get("chat_template"))


def _missing(task: Task) -> str:
    without = "`chat: false`" if task.system is None else "`chat: false` without `system`"
    return (
        f"tasks.{task.name}.chat: the base's tokenizer has no chat template; give {without} for plain prompts, or a "
        "base with a chat template, such as an instruct model"
    )


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


@dataclass(frozen=True)
class _Turn:
    """An example and what the template writes for it."""

    example: Example
    before: str
    """The text before an answer that is only the placeholder."""
    after: str
    """The text after it."""
    whole: str
    """The text with the example's own answer."""


@dataclass
class _Template:
    """A chat template with the messages of one task."""

    task: Task
    tokenizer: Any
    template: str
    known: dict[str, str] = field(default_factory=dict)
    """Answer -> how the template writes it."""
    kind: tuple[bool, bool] = (True, True)
    """What ``_starts`` returns for the task."""

    def text(self, example: Example, answer: str | None, opens: bool = False) -> str:
        """Return what the template writes for an example's messages and an answer.

        Args:
            example: the prompt, or the turns of a conversation.
            answer: the assistant's message; None for none.
            opens: whether the start of an answer follows.
        """
        from jinja2 import TemplateError

        messages = conversations.asked(self.task, example)
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        try:
            found: str = self.tokenizer.apply_chat_template(
                messages,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=opens,
                date_string=f"{_DAY:%d %b %Y}",
            )
        except (TemplateError, *_OF_CODE) as error:  # many templates raise an error for an unknown role
            keys = "system and chat" if self.task.system is not None else "chat"
            raise Unsupported(f"tasks.{self.task.name}: {keys}: the base's chat template refuses: {error}") from None
        return found

    def turn(self, example: Example) -> _Turn:
        """Return what the template writes for an example."""
        before, found, after = self.text(example, _ANSWER).rpartition(_ANSWER)
        if not found:
            raise self.unsupported("leaves out the assistant's answer")
        return _Turn(example, before, after, self.text(example, example.target))

    def written(self, turn: _Turn, prompt: str, index: int) -> Example:
        """Return an example as the template writes it after a prompt, which is the start of its text."""
        e, rest = turn.example, turn.whole[len(prompt) :]
        end = _common_end(rest, turn.after)
        target = rest[: len(rest) - len(end)]
        if e.target.strip() and not target.strip():
            raise self.unsupported(f"writes nothing of the answer of example {index}: {e.target[:80]!r}")
        if self.known.setdefault(e.target, target) != target:  # how an answer is written depends on the prompt
            self.known = {e.target: target}

        def others(answers: Sequence[str]) -> tuple[str, ...]:
            return tuple(self._other(turn, prompt, end, answer) for answer in answers)

        choices = others(e.choices)
        if len(set(choices)) < len(set(e.choices)):
            raise self.unsupported(f"writes two choices of example {index} alike")
        before, closed, _ = end.partition(self.tokenizer.eos_token or "\0")
        return replace(
            e,
            prompt=prompt.rstrip(_SPACES),
            join=prompt[len(prompt.rstrip(_SPACES)) :],
            target=target,
            choices=choices,
            references=others(e.references),
            end=before + closed,
        )

    def with_earlier(self, given: Example, made: Example, index: int) -> Example:
        """Return an example with the places in its prompt of earlier answers that are trained on.

        Each is written as if the conversation ended with it, as decoding would see it, and the example's prompt must
        begin with that; behind it stands the end of the turn, perhaps without end-of-text. Where the template marks
        the assistant's words (``{% generation %}``), only these are kept.
        """
        if not given.taught:
            return made
        found, marks = [], self.marks(given)
        for place in given.taught:
            only = replace(given, turns=given.turns[:place], target=given.turns[place][1], references=(), taught=())
            turn = self.turn(only)
            (prompt,) = self.of_kind([turn], [self.text(only, None, opens=True)])
            where = f"(example {index}, message {place}): {_LAST_ONLY}"
            if not turn.whole.startswith(prompt):
                raise self.unsupported(f"{_CHANGES} {where}")
            part = self.written(turn, prompt, index)
            text = part.prompt + part.join + part.target
            if not made.prompt.startswith(text):
                raise self.unsupported(f"{_CHANGES} {where}")
            open_end = part.end.removesuffix(self.tokenizer.eos_token or "")
            ends = [each for each in (part.end, open_end, open_end.rstrip()) if each]
            written = next((each for each in ends if made.prompt.startswith(each, len(text))), None)
            if written is None:
                raise self.unsupported(f"{_ENDLESS} {where}")
            first, end = len(part.prompt), len(text) + len(written)
            if marks is not None:
                inside = [(max(first, a), min(end, b)) for a, b in marks if a < end and b > first]
                if not inside:
                    raise self.unsupported(f"marks nothing of an answer as the assistant's (example {index})")
                first, end = inside[0][0], inside[-1][1]
            found.append((first, end))
        return replace(made, learned=tuple(found))

    def marks(self, example: Example) -> list[tuple[int, int]] | None:
        """Return first character and end of what the template marks as the assistant's words; None without marks."""
        if not _MARK.search(self.template):
            return None
        from transformers.utils.chat_template_utils import render_jinja_template

        messages = [*conversations.asked(self.task, example), {"role": "assistant", "content": example.target}]
        named = {**self.tokenizer.special_tokens_map, "date_string": f"{_DAY:%d %b %Y}"}
        _, (found,) = render_jinja_template(
            [messages], chat_template=self.template, return_assistant_tokens_mask=True, **named
        )
        return [(int(first), int(end)) for first, end in found]

    def _other(self, turn: _Turn, prompt: str, end: str, answer: str) -> str:
        """Return how another answer to a prompt is written."""
        if answer not in self.known:
            whole = self.text(turn.example, answer)
            if not whole.startswith(prompt):
                raise self.unsupported(_DEPENDS)
            rest = whole[len(prompt) :]
            self.known[answer] = rest[: len(rest) - len(_common_end(rest, end))]
        return self.known[answer]

    def prompts(self, turns: Sequence[_Turn]) -> list[str]:
        """Return the prompt of each example: a start of its text that is the same for every answer of the task."""
        opened = [self.text(turn.example, None, opens=True) for turn in turns]
        self.kind = self._starts(turns, opened)
        return self.of_kind(turns, opened)

    def of_kind(self, turns: Sequence[_Turn], opened: Sequence[str]) -> list[str]:
        """Return the prompt of each example: of the kind that was found for all answers of the task.

        Args:
            turns: the examples.
            opened: for each, the text that ends with the template's generation prompt.
        """
        usual, opening = self.kind
        if usual:
            return [turn.before for turn in turns]
        if opening:
            return list(opened)
        shared = [_common_start(turn.before, start) for turn, start in zip(turns, opened, strict=True)]
        for turn, start in zip(turns, shared, strict=True):
            asked = self.text(turn.example, None)
            if not (turn.whole.startswith(start) and start.startswith(asked)):
                raise self.unsupported(_DEPENDS)
        return shared

    def _starts(self, turns: Sequence[_Turn], opened: Sequence[str]) -> tuple[bool, bool]:
        """Return whether every text begins as with a plain answer, and whether with the generation prompt.

        The answers of all splits count, so that training and evaluation have the same prompts; those of other splits
        are tried after one prompt.
        """
        pairs = list(zip(turns, opened, strict=True))
        found = [(turn.whole.startswith(turn.before), turn.whole.startswith(start)) for turn, start in pairs]
        if not turns:
            return True, True
        first, start = pairs[0]
        asked = repr(self.task), self.template
        if asked not in _STARTS:
            others = {e.target for split in read.splits(self.task) for e in read.examples(self.task, split)}
            texts = [self.text(first.example, answer) for answer in sorted(others)]
            _STARTS[asked] = (
                all(text.startswith(first.before) for text in texts),
                all(text.startswith(start) for text in texts),
            )
        found.append(_STARTS[asked])
        return all(usual for usual, _ in found), all(opening for _, opening in found)

    def unsupported(self, why: str) -> Unsupported:
        """Return the error that the task's answers cannot be formatted."""
        return Unsupported(f"tasks.{self.task.name}.chat: the base's chat template {why}")


_STARTS: dict[tuple[str, str], tuple[bool, bool]] = {}
"""Task and template -> what ``_Template._starts`` found for the answers of all splits."""
_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_LAST_ONLY = "it cannot be trained on every answer; give train_on: last_answer"
_CHANGES = "writes an answer otherwise once messages follow it, as templates do that remove thinking from the history"
_ENDLESS = "writes no end behind an answer that messages follow"
_DEPENDS = "writes a text before the answer that depends on the answer, so a prompt would give it away"


def _common_end(text: str, end: str) -> str:
    """Return the longest text with which both texts end."""
    return _common_start(text[::-1], end[::-1])[::-1]


def _common_start(text: str, other: str) -> str:
    """Return the longest text with which both texts begin."""
    pairs = enumerate(zip(text, other, strict=False))
    return text[: next((place for place, (a, b) in pairs if a != b), min(len(text), len(other)))]
