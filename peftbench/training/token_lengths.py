"""How many tokens the examples of a task have, for defaults that follow from the data. No torch, mostly.

Texts are tokenized as for training. A base model with a ``tokenizer.json`` is tokenized by the ``tokenizers`` library
alone, which takes a tenth of a second to import. Other tokenizers and chat templates need transformers, which imports
torch, so that happens in a process of its own.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from peftbench.errors import Unsupported
from peftbench.models import tokenizer_file
from peftbench.records import HEADS, Example, Task
from peftbench.tasks import chat
from peftbench.training.encoded import encode

SAMPLE, CHARACTERS = 2000, 4_000_000
"""Most examples of a split, and most characters of them, that are tokenized: a seeded draw of the examples."""
_NO_LIMIT = 10**9


@dataclass(frozen=True)
class Lengths:
    """The examples of one split in tokens."""

    wholes: tuple[int, ...]
    """Prompt, answer and end-of-text of each example that was tokenized."""
    prompts: tuple[int, ...]
    """The prompt of each."""
    examples: int
    """Number of examples of the split."""


def lengths(task: Task, examples: Sequence[Example], folder: Path, trust_remote_code: bool) -> Lengths:
    """Return how many tokens the examples have, of a seeded draw if there are many.

    Args:
        task: decides about the chat template.
        examples: all examples of a split.
        folder: the base model's files.
        trust_remote_code: whether code that comes with the tokenizer may run.

    Raises:
        Unsupported: if the tokenizer cannot be loaded, or its chat template cannot format the task.
    """
    drawn = _drawn(examples)
    if task.chat or not (folder / tokenizer_file.NAME).is_file():
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            wholes, prompts = pool.submit(_with_transformers, task, drawn, folder, trust_remote_code).result()
    else:
        wholes, prompts = _counted(task, tokenizer_file.read(folder), drawn)
    return Lengths(tuple(wholes), tuple(prompts), len(examples))


def _drawn(examples: Sequence[Example]) -> list[Example]:
    """Return a seeded draw of the examples within the limits, at least one if there is any."""
    found = random.Random("token lengths").sample(examples, min(len(examples), SAMPLE))
    sizes = itertools.accumulate(len(e.prompt) + len(e.target) for e in found)
    return found[: max(1, sum(size <= CHARACTERS for size in sizes))]


def _with_transformers(
    task: Task, drawn: list[Example], folder: Path, trust_remote_code: bool
) -> tuple[list[int], list[int]]:
    from peftbench.models.load import load_tokenizer

    try:
        tokenizer = load_tokenizer(folder, trust_remote_code, task.kind not in HEADS)
    except Exception as error:  # a tokenizer's files and code may raise anything
        raise Unsupported(f"the tokenizer cannot be loaded: {error}") from None
    return _counted(task, tokenizer, chat.apply(task, drawn, tokenizer))


def _counted(task: Task, tokenizer: Any, examples: Sequence[Example]) -> tuple[list[int], list[int]]:
    if task.kind in HEADS:
        whole = [len(ids) for ids in tokenizer([e.prompt for e in examples])["input_ids"]]
        if task.prompt_pair:  # special tokens of both are counted
            second = tokenizer([e.second for e in examples])["input_ids"]
            whole = [a + len(b) for a, b in zip(whole, second, strict=True)]
        return whole, whole
    encoded = encode(tokenizer, [(("", i), e) for i, e in enumerate(examples)], _NO_LIMIT, "completion")
    return [len(e.ids) for e in encoded], [e.loss_from for e in encoded]
