"""lm-eval's model wrapper, adapted so that it works with every method."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from peftbench.evaluation import decoding
from peftbench.models.precision import Precision
from peftbench.records import Evaluation, failures

_FIRST_BATCH = 256
"""Initial batch size on a GPU if the suite gives none; it is halved whenever memory runs out."""
_CPU_TOKENS = 8192
"""Largest number of tokens in a batch on the CPU, where running out of memory cannot be tried and caught."""


class Harness(HFLM):
    """lm-eval's model wrapper, adapted so that it works with every method.

    Generation runs in batches of prompts of equal length, since with left padding prompt tuning would place the padding
    between virtual tokens and text. The log-likelihood cache is off, since it confuses requests whose contexts have the
    same ending.
    """

    def __init__(self, model: Any, tokenizer: Any, evaluation: Evaluation, precision: Precision) -> None:
        on_gpu = next(model.parameters()).device.type == "cuda"
        found = _FIRST_BATCH if on_gpu else max(1, _CPU_TOKENS // evaluation.max_length)
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=evaluation.batch_size or found,
            max_length=evaluation.max_length,
            mixed_precision_dtype=precision.autocast,
            softmax_dtype="float32",  # as for the training loss; half precision would cause ties
            logits_cache=False,
        )
        self.searches = evaluation.batch_size is None
        """Whether the batch size may be halved when memory runs out."""
        self.fitted_peak_bytes = 0
        """Peak of the CUDA allocator, in bytes, over the batches that fitted before its statistics were last reset."""
        self.dtype = precision.autocast or precision.weights
        """Compute dtype; log-probabilities are computed in float32."""
        self.generation = evaluation.generation
        """Where the parameters of decoding come from, ``greedy`` or ``base``."""
        self.unended = 0
        """How many of the answers decoded last reached the largest number of new tokens before their end."""

    def tok_encode(
        self, string: str, *arguments: Any, left_truncate_len: int | None = None, **kwargs: Any
    ) -> list[int]:
        """Return a text's tokens, without an end-of-text token added by the tokenizer, as in training."""
        ids = super().tok_encode(string, *arguments, **kwargs)
        if ids and ids[-1] == self.tokenizer.eos_token_id and not string.endswith(self.tokenizer.eos_token):
            ids = ids[:-1]
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def tok_batch_encode(
        self, strings: list[str], padding_side: str = "left", left_truncate_len: int | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (ids, mask) of prompts of equal length: nothing is padded."""
        ids = torch.tensor([self.tok_encode(s, left_truncate_len=left_truncate_len) for s in strings])
        return ids, torch.ones_like(ids)

    def text_tokens(self, text: str) -> list[int]:
        """Return the tokens of a text without special tokens added by the tokenizer."""
        return self.tokenizer.encode(text, add_special_tokens=False)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Return one answer per request, in order. The longest prompts are run first, so that memory runs out early."""
        groups: dict[int, list[tuple[int, Any]]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[len(self.tok_encode(request.args[0]))].append((index, request))
        answers: dict[int, decoding.Answer] = {}
        for _, group in sorted(groups.items(), reverse=True):
            found = self._fitting(lambda some: decoding.answers(self, some, self.batch_size), group)
            answers.update(zip((index for index, _ in group), found, strict=True))
        self.unended = sum(not answer.ended for answer in answers.values())
        return [answers[i].text for i in range(len(requests))]

    def decoding_of(self, asked: Mapping[str, Any]) -> decoding.Decoding:
        """Return how answers are decoded for a task that asks for lm-eval's ``generation_kwargs``."""
        return decoding.of_task(self.model, self.tokenizer, self.generation, asked, self.max_gen_toks)

    def decoding_settings(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Return every parameter of decoding as it is stored with a score, and where the parameters come from."""
        return {"decoding_from": self.generation, "decoding": self.decoding_of(asked).settings()}

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Return per request the log-probability in nats, and whether greedy decoding gives the same text."""
        ask = super().loglikelihood
        return self._fitting(lambda found: ask(found, disable_tqdm=True), requests)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Return the log-probability of each request's whole text in nats; long texts in windows of ``max_length``.

        Each text follows one beginning-of-text token, or end-of-text if there is none. If the tokenizer adds that token
        too, lm-eval's own method would have it twice, the second time as a token to predict.
        """
        windows = [
            [
                (None, *make_disjoint_window(window))
                for window in get_rolling_token_windows(
                    token_list=self.text_tokens(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
            ]
            for request in requests
        ]
        ask = self._loglikelihood_tokens
        found = iter(self._fitting(lambda each: ask(each, disable_tqdm=True), [w for text in windows for w in text]))
        return [sum(next(found)[0] for _ in text) for text in windows]

    def _fitting(self, ask: Callable[[list[Any]], list[Any]], requests: list[Any]) -> list[Any]:
        """Return the answers; when memory runs out, retry with half the batch size unless the suite gives one."""
        while True:
            peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0
            try:
                return ask(requests)
            except Exception as error:
                if not (self.searches and self.batch_size > 1 and failures.out_of_memory(error)):
                    raise
                self.batch_size_per_gpu = self.batch_size // 2
            if self.device.type == "cuda":
                self.fitted_peak_bytes = max(self.fitted_peak_bytes, peak)
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
