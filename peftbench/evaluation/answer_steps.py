"""What is checked at each step of decoding: whether an answer has ended, and which tokens it may not go on with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import LogitsProcessor, NoRepeatNGramLogitsProcessor, StoppingCriteria


class Ended(StoppingCriteria):
    """Ends each sequence at the first text in which a stop text occurs, however its tokens spell it."""

    def __init__(self, tokenizer: Any, stops: Sequence[str], start: int) -> None:
        self._tokenizer, self._stops, self._start = tokenizer, stops, start
        # each token but the first has at least one byte of the stop text
        self._window = max(len(text.encode()) for text in stops) + 1

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Return for each of the b sequences whether it has ended, shape (b,)."""
        texts = self._tokenizer.batch_decode(input_ids[:, self._start :][:, -self._window :])
        ended = [any(stop in text for stop in self._stops) for text in texts]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)


class OnceInAnswer(LogitsProcessor):
    """Forbids each token with which a sequence of n tokens would occur a second time in an answer.

    ``transformers`` itself counts those of the prompt, too. Then an answer could not state four tokens of its prompt in
    their order, as data-to-text must. microsoft/LoRA (examples/NLG/src/gpt2_beam.py) also looks at the answer alone.
    """

    def __init__(self, size: int, start: int) -> None:
        self._stock, self._start = NoRepeatNGramLogitsProcessor(size), start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores of the next token, (b, v), with minus infinity for forbidden ones."""
        found: torch.Tensor = self._stock(input_ids[:, self._start :], scores)
        return found
