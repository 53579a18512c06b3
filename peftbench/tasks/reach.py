"""Which targets decoding can give at all: those that no stop text cuts, that fit, and that the tokenizer gives back.

A perfect model is imagined that writes each target with its tokens. What decoding would make of that is compared with
the target as scoring compares answers: the parsed answers, the whole texts, or for ROUGE the words. No torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from peftbench.errors import UserError
from peftbench.records import Example, Task
from peftbench.records.wording import plural
from peftbench.tasks.answers import read_answer
from peftbench.tasks.joining import joined

DECODED = ("exact_match", "generation")
"""Kinds of tasks whose answers are decoded."""
_STOPS = ("\n", "\n\n")
"""Default stop texts, the first that no target contains: a line feed, or a blank line."""
_THOUGHT = "</think>"
"""End of a thinking block, which chat templates write with line feeds and a blank line."""


def default_stops(task: Task, targets: Iterable[str]) -> tuple[str, ...]:
    """Return the stop texts of a task for which the suite gives none: a line feed if no target contains one, else a
    blank line if no target contains one, else none, so that only end-of-text ends an answer.

    Args:
        task: the task.
        targets: the right answers and references of all its splits.
    """
    left = list(_STOPS)
    for target in targets:
        text = f"{target.rstrip()}\n\n" if task.chat and _THOUGHT in target else target.rstrip()
        left = [stop for stop in left if stop not in text]
        if not left:
            return ()
    return (left[0],)


class Speller(Protocol):
    """A tokenizer, as far as it is needed here."""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts without special tokens."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids without special tokens."""


@dataclass(frozen=True)
class Reach:
    """How many targets of a task decoding can give."""

    examples: int
    """Targets that were looked at."""
    stopped: int
    """Targets of which a stop text cuts a part that counts."""
    longer: int | None
    """Targets of which a part that counts is beyond the largest number of new tokens; None without a tokenizer."""
    changed: int | None
    """Targets that are another answer when the tokenizer has encoded and decoded them."""
    unreachable: int
    """Targets to which one of these applies."""
    longest_tokens: int | None
    """Tokens of the longest target."""

    def settings(self) -> dict[str, Any]:
        """Return the counts as they are stored with a score."""
        return asdict(self)


def count(task: Task, examples: Sequence[Example], stops: Collection[str], speller: Speller | None) -> Reach:
    """Return how many targets decoding can give.

    Args:
        task: a task whose answers are decoded.
        examples: its examples.
        stops: the texts that end an answer.
        speller: the base model's tokenizer; None counts only what stop texts cut.
    """
    read = _reader(task)
    wanted = [read(e.target) for e in examples]
    stopped = [_until(e.target, stops) != e.target.rstrip() for e in examples]
    stopped = [cut and read(_until(e.target, stops)) != w for cut, e, w in zip(stopped, examples, wanted, strict=True)]
    if speller is None:
        return Reach(len(examples), sum(stopped), None, None, sum(stopped), None)
    answers = _answer_ids(speller, examples)
    ends = _end_tokens(speller, examples)
    longer, changed, most = [], [], task.max_new_tokens
    for ids, end, w in zip(answers, ends, wanted, strict=True):
        whole = read(speller.decode(ids))
        changed.append(whole != w)
        longer.append(len(ids) + end > most and (len(ids) <= most or read(speller.decode(ids[:most])) != whole))
    either = [any(flags) for flags in zip(stopped, longer, changed, strict=True)]
    longest = max(map(len, answers), default=None)
    return Reach(len(examples), sum(stopped), sum(longer), sum(changed), sum(either), longest)


def alike(examples: Sequence[Example], speller: Speller) -> list[tuple[str, str]]:
    """Return two choices with the same token ids for each example that has such choices."""
    texts = list(dict.fromkeys(e.join + choice for e in examples for choice in e.choices))
    ids = dict(zip(texts, map(tuple, speller.encode(texts)), strict=True))
    found = []
    for e in examples:
        known: dict[tuple[int, ...], str] = {}
        for choice in dict.fromkeys(e.choices):
            first = known.setdefault(ids[e.join + choice], choice)
            if first != choice:
                found.append((first, choice))
                break
    return found


def _end_tokens(speller: Speller, examples: Sequence[Example]) -> list[int]:
    """Return per example the tokens that must be decoded after its answer: the end of a chat turn if it has several."""
    texts = [e.end.strip() for e in examples]
    distinct = list(dict.fromkeys(texts))
    sizes = dict(zip(distinct, map(len, speller.encode(distinct)), strict=True))
    return [sizes[text] if sizes[text] > 1 else 0 for text in texts]


def _answer_ids(speller: Speller, examples: Sequence[Example]) -> list[list[int]]:
    """Return the token ids of each target, as they follow its prompt."""
    prompts = speller.encode([e.prompt for e in examples])
    wholes = speller.encode([e.prompt + e.join + e.target for e in examples])
    pairs = (joined(prompt, whole, speller.decode) for prompt, whole in zip(prompts, wholes, strict=True))
    return [ids[start:] for ids, start in pairs]


def _until(text: str, stops: Collection[str]) -> str:
    """Return a text up to the first stop text, without white space at its end."""
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))].rstrip()


def _reader(task: Task) -> Callable[[str], Any]:
    """Return what scoring compares of an answer."""
    if task.kind == "generation":
        return lambda text: re.findall(r"\w+", text.lower())
    pattern = task.answer_pattern
    return str.strip if pattern is None else lambda text: read_answer(pattern, text)


def sentence(subject: str, counts: Mapping[str, Any], stops: Collection[str], max_new_tokens: int) -> str | None:
    """Return how many targets decoding cannot give, and why; None if it can give all.

    Args:
        subject: what the targets are of: "task sum, test split".
        counts: what ``Reach.settings`` returns.
        stops: the texts that end an answer.
        max_new_tokens: the largest number of tokens of an answer.
    """
    if not counts["unreachable"]:
        return None
    shown = ", ".join(repr(stop) for stop in stops)
    reasons = [
        (counts["stopped"], f"a stop text cuts ({shown})"),
        (
            counts["longer"],
            f"max_new_tokens cuts ({max_new_tokens}; the longest has {counts['longest_tokens']} tokens)",
        ),
        (counts["changed"], "the tokenizer does not give back as they are"),
    ]
    why = "; ".join(f"{number:,} that {reason}" for number, reason in reasons if number)
    return f"{subject}: {counts['unreachable']:,} of {plural(counts['examples'], 'target')} cannot be decoded: {why}"


def check_choices(task: Task, examples: Sequence[Example], tokens: Callable[[str], int], max_length: int) -> None:
    """Check that every choice fits into evaluation's maximum length, as prompts may be truncated but choices may not.

    Args:
        task: the task.
        examples: its scored examples.
        tokens: returns the number of tokens of a choice.
        max_length: evaluation's maximum length.

    Raises:
        UserError: if one does not fit.
    """
    known: set[str] = set()
    for index, example in enumerate(examples):
        for choice in set(example.choices) - known:
            known.add(choice)
            count = tokens(choice + example.end)
            if count >= max_length:
                short = choice if len(choice) <= 40 else f"{choice[:37]}..."
                raise UserError(
                    f"task {task.name!r}, example {index}: the choice {short!r} has {count} tokens; allowed: less than "
                    f"evaluate.max_length, which is {max_length} (by default the longest sequence_length of train): "
                    "raise it, or shorten the choice"
                )
