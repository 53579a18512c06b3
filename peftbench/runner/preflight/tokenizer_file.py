"""A base model's tokenizer before a run: read from its file, without torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from peftbench.records import Example, Trial

Folder = Callable[[Trial], Path | None]
"""Gives the folder of a trial's base model; None if it is not on this machine."""
_MOST = 2000
"""Most training examples of a task that are tokenized before a run, evenly spaced."""
_CLEANED = {" ' ": "'"} | {f" {mark}": mark for mark in (*".?!,", "n't", "'m", "'s", "'ve", "'re")}
"""What a tokenizer with ``clean_up_tokenization_spaces`` changes in decoded text."""


def spaced(examples: Sequence[Example]) -> Sequence[Example]:
    """Return a sample of training examples, evenly spaced; all if they are few."""
    return examples[:: -(-len(examples) // _MOST) or 1]


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer from its file, which loads without torch."""

    tokenizer: Any
    cleans: bool
    """Whether spaces before punctuation are removed from decoded text."""

    def added(self) -> int:
        """Return the number of special tokens that begin each text."""
        whole, plain = (self.tokenizer.encode("a", add_special_tokens=adds).ids for adds in (True, False))
        return next((n for n in range(len(whole)) if whole[n : n + len(plain)] == plain), 0)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts without special tokens."""
        return [found.ids for found in self.tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids without special tokens."""
        text: str = self.tokenizer.decode(list(ids))
        for before, after in _CLEANED.items() if self.cleans else ():
            text = text.replace(before, after)
        return text


@cache
def speller_of(folder: Path) -> TokenizerFile | None:
    """Return a base model's tokenizer; None if it has no ``tokenizer.json`` or it cannot be read."""
    try:
        from tokenizers import Tokenizer

        made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception:  # the library raises Exception itself; reported by the code that needs the tokenizer
        return None
    made.no_padding()
    made.no_truncation()
    try:
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    cleans = isinstance(config, dict) and bool(config.get("clean_up_tokenization_spaces"))
    return TokenizerFile(made, cleans and type(made.model).__name__ != "BPE")
