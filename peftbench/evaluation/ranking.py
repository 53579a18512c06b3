"""The texts of choices that are ranked: each choice behind its prompt, with the end that training taught or without."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from peftbench.evaluation.likelihood import Form, Text
from peftbench.records import Example, Task
from peftbench.training.encoded import tokens

WITHOUT_END = "choice"
"""What is ranked if the end of an answer was not trained."""


def settings(task: Task, found: Sequence[Sequence[Text]], ended: bool, form: Form) -> dict[str, Any]:
    """Return what is ranked and how it was run, as stored in a score's settings.

    Args:
        task: the task.
        found: the texts of each example's choices.
        ended: whether they include the end of an answer.
        form: how they were run.
    """
    if ended:
        what = "choice, end of turn and end-of-text" if task.chat else "choice and end-of-text"
        return {"ranked": what} | form_words(form)
    most = max(map(beginnings, found), default=0)
    return {"ranked": WITHOUT_END} | ({"begin_another": most} if most else {}) | form_words(form)


def form_words(form: Form) -> dict[str, str]:
    """Return how prompts were run, and why not once if they might have been."""
    batches = {"batches": "texts of equal length"} if form.pads is False else {}
    if form.shared:
        return {"prompts": "run once for all choices"} | batches
    return {"prompts": "run with each choice"} | ({"prompts_reason": form.reason} if form.reason else {}) | batches


def texts(tokenizer: Any, examples: Sequence[Example], ended: bool, beginning: int) -> list[list[Text]]:
    """Return the tokens of each example's choices behind the prompt, as training tokenizes a prompt and its answer.

    All choices of an example begin behind the same tokens: if the prompt's end merges with one of them, the other
    choices are ranked with the prompt's last tokens, too.

    Args:
        tokenizer: the base model's.
        examples: examples with choices.
        ended: whether the end of an answer is ranked too.
        beginning: the token before a choice whose prompt is empty.
    """
    pairs = [(e.prompt, e.join + choice + (e.end if ended else "")) for e in examples for choice in e.choices]
    found = iter(tokens(tokenizer, pairs, ended))
    return [_behind([next(found) for _ in e.choices], beginning, index) for index, e in enumerate(examples)]


def _behind(asked: Sequence[tuple[list[int], int]], beginning: int, group: int) -> list[Text]:
    """Return the choices of one example; each is given as its tokens and where the choice begins in them."""
    start = min((place for _, place in asked), default=0)
    return [_text(ids, start, beginning, group) for ids, _ in asked]


def _text(ids: Sequence[int], start: int, beginning: int, group: int) -> Text:
    if not start:
        ids, start = [beginning, *ids], 1
    return Text(tuple(ids), start, group)


def beginnings(ranked_texts: Sequence[Text]) -> int:
    """Return how many of one example's choices are the beginning of another: without an end, they cannot lose to it."""
    answers = sorted(text.ids[text.start :] for text in ranked_texts)
    # in sorted order, the first answer after one is a continuation of it if any is
    return sum(longer[: len(one)] == one and longer != one for one, longer in pairwise(answers))
