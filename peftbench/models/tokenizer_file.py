"""A base model's tokenizer read from ``tokenizer.json`` by the ``tokenizers`` library, which imports fast. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.errors import Unsupported

NAME = "tokenizer.json"
_CLEANED = {" ' ": "'"} | {f" {mark}": mark for mark in (*".?!,", "n't", "'m", "'s", "'ve", "'re")}
"""What a tokenizer with ``clean_up_tokenization_spaces`` changes in decoded text."""


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer with as much of transformers' interface as is needed to count tokens before a run."""

    fast: Any
    """The library's tokenizer."""
    bos_token: str | None
    eos_token: str
    """A text that occurs nowhere if the tokenizer names none: then nothing can be trained, which a trial reports."""
    eos_token_id: int
    """-1 if the tokenizer does not have it."""
    cleans: bool
    """Whether spaces before punctuation are removed from decoded text."""

    def __call__(self, texts: Any, add_special_tokens: bool = True) -> dict[str, Any]:
        """Return the token ids of a text or of several, as transformers does."""
        several = [texts] if isinstance(texts, str) else list(texts)
        # one by one: a batch would start threads, after which no process may be forked
        ids = [self.fast.encode(text, add_special_tokens=add_special_tokens).ids for text in several]
        return {"input_ids": ids[0] if isinstance(texts, str) else ids}

    def lengths_of_pairs(self, first: Sequence[str], second: Sequence[str]) -> list[int]:
        """Return the number of tokens of each pair of texts, with the special tokens around and between them."""
        return [len(self.fast.encode(a, b).ids) for a, b in zip(first, second, strict=True)]

    def added(self) -> int:
        """Return the number of special tokens that begin each text."""
        whole, plain = (self("a", add_special_tokens=adds)["input_ids"] for adds in (True, False))
        return next((n for n in range(len(whole)) if whole[n : n + len(plain)] == plain), 0)

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of many texts without special tokens; it starts threads."""
        return [found.ids for found in self.fast.encode_batch(list(texts), add_special_tokens=False)]

    def decode(
        self, ids: Sequence[int], skip_special_tokens: bool = True, clean_up_tokenization_spaces: bool | None = None
    ) -> str:
        """Return the text of token ids, by default as a decoded answer is read: without special tokens.

        Args:
            ids: the token ids.
            skip_special_tokens: whether special tokens are left out.
            clean_up_tokenization_spaces: whether spaces before punctuation are removed; None for the tokenizer's own
                setting.
        """
        text: str = self.fast.decode(list(ids), skip_special_tokens=skip_special_tokens)
        cleans = self.cleans if clean_up_tokenization_spaces is None else clean_up_tokenization_spaces
        for before, after in _CLEANED.items() if cleans else ():
            text = text.replace(before, after)
        return text


def read(folder: Path) -> TokenizerFile:
    """Return the tokenizer of a model folder.

    Raises:
        Unsupported: if there is no ``tokenizer.json`` or it cannot be read.
    """
    try:
        from tokenizers import Tokenizer

        fast = Tokenizer.from_file(str(folder / NAME))
    except Exception as error:  # the library raises nothing more specific
        raise Unsupported(f"{NAME} cannot be read: {error}") from None
    fast.no_truncation()
    fast.no_padding()
    try:
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        settings = {}
    settings = settings if isinstance(settings, dict) else {}
    eos = _token(settings.get("eos_token"))
    number = fast.token_to_id(eos) if eos else None
    cleans = bool(settings.get("clean_up_tokenization_spaces")) and type(fast.model).__name__ != "BPE"
    return TokenizerFile(
        fast, _token(settings.get("bos_token")), eos or "\0", -1 if number is None else int(number), cleans
    )


def _token(given: Any) -> str | None:
    found = given.get("content") if isinstance(given, dict) else given
    return found if isinstance(found, str) else None
