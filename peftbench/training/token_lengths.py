"""How many tokens the examples of a task have, for defaults that follow from the data. No torch, mostly.

Texts are tokenized as for training. A base model with a ``tokenizer.json`` is tokenized by the ``tokenizers`` library
alone, which takes a tenth of a second to import. Other tokenizers and chat templates need transformers, which imports
torch, so that happens in a process of its own.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from peftbench.errors import Unsupported
from peftbench.records import Example, Task
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
    if task.chat or not (folder / "tokenizer.json").is_file():
        with ProcessPoolExecutor(1, get_context("spawn")) as pool:
            wholes, prompts = pool.submit(_with_transformers, task, drawn, folder, trust_remote_code).result()
    else:
        wholes, prompts = _counted(_Light.read(folder), drawn)
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
        tokenizer = load_tokenizer(folder, trust_remote_code)
    except Exception as error:  # a tokenizer's files and code may raise anything
        raise Unsupported(f"the tokenizer cannot be loaded: {error}") from None
    return _counted(tokenizer, chat.apply(task, drawn, tokenizer))


def _counted(tokenizer: Any, examples: Sequence[Example]) -> tuple[list[int], list[int]]:
    encoded = encode(tokenizer, [(("", i), e) for i, e in enumerate(examples)], _NO_LIMIT, "completion")
    return [len(e.ids) for e in encoded], [e.loss_from for e in encoded]


class _Light:
    """A tokenizer with as much of transformers' interface as ``encode`` needs."""

    def __init__(self, fast: Any, bos_token: str | None, eos_token: str | None) -> None:
        self._fast = fast
        self.bos_token = bos_token
        # without an end-of-text token nothing can be trained, which a trial reports; texts still have a length
        self.eos_token = eos_token or "\0"
        known = fast.token_to_id(eos_token) if eos_token else None
        self.eos_token_id = -1 if known is None else int(known)

    @classmethod
    def read(cls, folder: Path) -> _Light:
        """Return the tokenizer of a folder's ``tokenizer.json``.

        Raises:
            Unsupported: if it cannot be read.
        """
        from tokenizers import Tokenizer

        try:
            fast = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # the library raises nothing more specific
            raise Unsupported(f"tokenizer.json cannot be read: {error}") from None
        fast.no_truncation()
        fast.no_padding()
        try:
            settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            settings = {}
        return cls(fast, _token(settings, "bos_token"), _token(settings, "eos_token"))

    def __call__(self, texts: Any, add_special_tokens: bool = True) -> dict[str, Any]:
        """Return the token ids of a text or of several, as transformers does."""
        several = [texts] if isinstance(texts, str) else list(texts)
        # one by one: a batch would start threads, after which no process may be forked
        ids = [self._fast.encode(text, add_special_tokens=add_special_tokens).ids for text in several]
        return {"input_ids": ids[0] if isinstance(texts, str) else ids}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        """Return the text of token ids, with special tokens."""
        return str(self._fast.decode(list(ids), skip_special_tokens=False))


def _token(settings: Any, name: str) -> str | None:
    found = settings.get(name) if isinstance(settings, dict) else None
    found = found.get("content") if isinstance(found, dict) else found
    return found if isinstance(found, str) else None
