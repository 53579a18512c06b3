"""Tokenized training examples. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peftbench.errors import Unsupported
from peftbench.records import Example

Identity = tuple[str, int]
"""(task, index): which training example it is."""


@dataclass(frozen=True)
class Encoded:
    """One tokenized example: prompt, answer, end-of-text."""

    ids: tuple[int, ...]
    loss_from: int
    """Position of the first token that enters the loss."""
    truncated: bool
    """Whether the prompt was cut on the left to fit the sequence length."""
    identity: Identity


Row = Sequence[Encoded]
"""Examples that share one row of a batch, one after the other."""


def encode(tokenizer: Any, examples: Sequence[tuple[Identity, Example]], length: int, loss_on: str) -> list[Encoded]:
    """Tokenize prompts and answers as lm-eval does, and end each text with an end-of-text token that is learned.

    The prompt and the whole text are tokenized separately, and the answer is what the whole text has beyond the
    prompt's tokens. Special tokens are added as the tokenizer does by default.

    Args:
        tokenizer: the base model's.
        examples: each with its identity.
        length: most tokens of an example; a longer one loses the left of its prompt.
        loss_on: ``completion`` or ``all``: which tokens enter the loss.

    Raises:
        Unsupported: if the tokenizer has no end-of-text token.
    """
    eos = tokenizer.eos_token_id
    if eos is None:
        raise Unsupported("the base model's tokenizer has no end-of-text token, so an answer's end cannot be learned")
    prompts = _ids(tokenizer, [e.prompt for _, e in examples])
    wholes = _ids(tokenizer, [e.prompt + e.join + e.target + e.end for _, e in examples])
    found = []
    for (identity, _), prompt, whole in zip(examples, prompts, wholes, strict=True):
        # some tokenizers append end-of-text to every text themselves
        open_prompt = prompt[:-1] if prompt and prompt[-1] == eos else prompt
        closed = whole if whole and whole[-1] == eos else [*whole, eos]
        loss_from = len(open_prompt) if loss_on == "completion" else 1
        cut = max(0, len(closed) - length)
        found.append(Encoded(tuple(closed[cut:]), max(1, loss_from - cut), cut > 0, identity))
    return found


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Return texts' token ids with the tokenizer's special tokens, but without them if a text begins with one already.

    lm-eval does the same. A chat template writes the beginning-of-text token as text.
    """
    first = tokenizer.bos_token or tokenizer.eos_token
    if not any(text.startswith(first) for text in texts):
        return tokenizer(list(texts))["input_ids"]
    return [tokenizer(text, add_special_tokens=not text.startswith(first))["input_ids"] for text in texts]
