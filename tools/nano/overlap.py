"""Overlap of a task's texts with the pretraining text of a base model. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from peftbench.records import Example
from peftbench.tasks import overlap

SIZES = (2, 4, 6, 8)
"""Lengths of the compared n-grams, in words."""
_FIELD_ENDS = re.compile(r"[:|/]")
_WORD = re.compile(r"\w+|[^\w\s]")

Grams = dict[tuple[str, int], set[tuple[str, ...]]]
"""(task, n) -> n-grams."""


@dataclass(frozen=True)
class Overlap:
    """Overlap of a task's texts with the pretraining text."""

    examples: int
    shares: dict[int, float]
    """n -> share of the distinct n-grams of prompt and answer together that occur in the pretraining text."""
    prompts: int
    """Number of whole prompts that occur in it, out of ``examples``."""
    longest_fields: int
    """Number of prompts whose longest field, between ``:``, ``|`` and ``/``, occurs in it."""
    targets: int
    """Number of distinct whole answers that occur in it."""
    distinct_targets: int


def words(text: str) -> list[str]:
    """Return the words and punctuation marks of a text, without white space."""
    return _WORD.findall(text)


def ngrams(text: str, size: int) -> set[tuple[str, ...]]:
    """Return the distinct n-grams of a text's words."""
    return overlap.ngrams(words(text), size)


def longest_field(prompt: str) -> str:
    """Return the longest field of a prompt: the story in ``judge``, a fact in other tasks."""
    return max((part.strip() for part in _FIELD_ENDS.split(prompt)), key=len)


def measure(tasks: dict[str, Sequence[Example]], read: Iterable[str]) -> dict[str, Overlap]:
    """Return each task's overlap with the pretraining documents; matches do not span two documents."""
    documents = list(dict.fromkeys(read))
    texts = {name: [f"{e.prompt} {e.target}" for e in examples] for name, examples in tasks.items()}
    wanted = {
        (name, size): {gram for text in found for gram in ngrams(text, size)}
        for name, found in texts.items()
        for size in SIZES
    }
    seen = _seen(wanted, documents)
    whole = "\0".join(documents)
    found = {}
    for name, examples in tasks.items():
        targets = {e.target for e in examples}
        found[name] = Overlap(
            examples=len(examples),
            shares={size: len(seen[name, size]) / len(wanted[name, size]) for size in SIZES if wanted[name, size]},
            prompts=sum(e.prompt in whole for e in examples),
            longest_fields=sum(longest_field(e.prompt) in whole for e in examples),
            targets=sum(target in whole for target in targets),
            distinct_targets=len(targets),
        )
    return found


def _seen(wanted: Grams, documents: Sequence[str]) -> Grams:
    """Return the wanted n-grams that occur in some document."""
    every = {size: {g for (_, n), grams in wanted.items() if n == size for g in grams} for size in SIZES}
    occur: dict[int, set[tuple[str, ...]]] = {size: set() for size in SIZES}
    for document in documents:
        found = words(document)
        for size in SIZES:
            occur[size] |= every[size].intersection(overlap.ngrams(found, size))
    return {(name, size): grams & occur[size] for (name, size), grams in wanted.items()}
