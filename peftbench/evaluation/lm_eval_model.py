"""lm-eval's model wrapper, adapted so that it works with every method."""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from peft import PeftModel

from peftbench.evaluation import cached_steps, decoding, likelihood, passes, ranking, shared_prompts
from peftbench.evaluation.agreement import ALONE
from peftbench.evaluation.likelihood import Answer, Text
from peftbench.models.precision import Precision
from peftbench.records import Evaluation, Example, Task, failures

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

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        evaluation: Evaluation,
        precision: Precision,
        learned_ends: Collection[str] = (),
    ) -> None:
        """Wrap a model.

        Args:
            model: the tuned model, or the untuned base model.
            tokenizer: the base model's.
            evaluation: how to score.
            precision: the precision in which the model computes.
            learned_ends: names of the choice tasks whose choices are ranked with the end of an answer.
        """
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
        self.learned_ends = frozenset(learned_ends)
        self.form = likelihood.Form()
        """How the texts of the last task were run."""
        self._asked: list[list[Text]] | None = None
        """Each document's choices, while choices of peftbench's own tasks are ranked."""
        self._pads: bool | None = None
        self._shares: dict[tuple[int, int], str | None] = {}
        self._known: dict[str, tuple[Sequence[Example], list[list[Text]]]] = {}
        self.searches = evaluation.batch_size is None
        """Whether the batch size may be halved when memory runs out."""
        self.agreement = ALONE
        """How the processes that call the model together decide in which form texts are run."""
        self.fitted_peak_bytes = 0
        """Peak of the CUDA allocator, in bytes, over the batches that fitted before its statistics were last reset."""
        self.dtype = precision.autocast or precision.weights
        """Compute dtype; log-probabilities are computed in float32."""
        self.generation = evaluation.generation
        """Where the parameters of decoding come from, ``greedy`` or ``base``."""
        self._no_cache: dict[bool, str | None] = {}
        """Why answers are decoded without a cache, once that is known: greedily, and with beams."""
        self.not_computed: dict[str, str] = {}
        """Metrics of the last generation task that could not be computed, with the reason."""
        self.unended = 0
        """How many of the answers decoded last reached the largest number of new tokens before their end."""

    def why_no_cache(self, ids: torch.Tensor, beams: int = 1) -> str | None:
        """Return why answers are decoded without the model's cache, as found on the first prompt, (1, t); else None."""
        searches = beams > 1
        if searches not in self._no_cache:
            check = cached_steps.why_not_beams if searches else cached_steps.why_not
            pad, dtype = self.tokenizer.pad_token_id, self.mixed_precision_dtype
            with (
                self._aside(),
                decoding.without_own(self.model),
                torch.autocast(self.device.type, dtype=dtype, enabled=dtype is not None),
            ):
                found = check(self.model, ids.to(self.device), self.dtype, pad, self.max_length, self.agreement)
            self._no_cache[searches] = self.agreement.reason(found)
        return self._no_cache[searches]

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Leave what is run within the context out of evaluation's times and of its peak of CUDA memory."""
        cuda = self.device.type == "cuda"
        if cuda:
            self.fitted_peak_bytes = max(self.fitted_peak_bytes, torch.cuda.max_memory_allocated())
        try:
            with passes.aside():
                yield
        finally:
            if cuda:
                torch.cuda.reset_peak_memory_stats()

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
        how = self.decoding_of(asked)
        why = self._no_cache.get(how.beams > 1)
        without = {"decoded_without_cache": why} if why else {}
        return {"decoding_from": self.generation, "decoding": how.settings(), **without}

    def choices(self, task: Task, examples: Sequence[Example]) -> list[list[Text]]:
        """Return the tokens of each example's choices behind its prompt; the last examples of a task are remembered."""
        known = self._known.get(task.name)
        if known is None or known[0] != examples:
            ended = task.name in self.learned_ends
            found = ranking.texts(self.tokenizer, examples, ended, self.prefix_token_id)
            self._known[task.name] = known = (list(examples), found)
        return known[1]

    @contextmanager
    def ranking(self, task: Task, examples: Sequence[Example]) -> Iterator[None]:
        """Within the context, requests are the choices of these examples, in the tokens of training."""
        self._asked = self.choices(task, examples)
        try:
            yield
        finally:
            self._asked = None

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Return per request the log-probability in nats, and whether greedy decoding gives the same text."""
        if self._asked is None:
            return super().loglikelihood(requests, disable_tqdm=True)
        return self.log_probabilities([self._asked[r.doc_id][r.idx] for r in requests])

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = True, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """Return the answers to lm-eval's requests, each (texts, context's tokens, continuation's tokens)."""
        groups: dict[str, int] = {}
        texts = [
            Text((*context, *continuation), len(context), groups.setdefault(given[0], len(groups)) if given else None)
            for given, context, continuation in requests
        ]
        return self.log_probabilities(texts)

    def log_probabilities(self, texts: Sequence[Text]) -> list[Answer]:
        """Return the log-probability of each text's continuation, after at most ``max_length`` tokens before it."""
        self.prove(texts)
        cut = [text.cut(self.max_length + 1) for text in texts]

        def ask(asked: list[Text]) -> list[Answer]:
            self.form, model = likelihood.Form(), self._runner()
            runs = chain(*shared_prompts.answers(model, asked, self.form))
            found = {index: answer for each in runs for index, answer in each.items()}
            self.form.pads = self._pads = model.pads
            return [found[index] for index in range(len(asked))]

        return self._fitting(ask, cut)

    def prove(self, texts: Sequence[Text]) -> None:
        """Find out how texts can be run, unless that is known; the passes for it are not part of what is measured."""
        model = self._runner()
        with self._aside():
            shared_prompts.prove(model, [text.cut(self.max_length + 1) for text in texts])
        self._pads = model.pads

    def run_first_passes(self, texts: Sequence[Text]) -> None:
        """Run one batch of each form in which scoring runs texts: the first, which needs most memory."""
        cut = [text.cut(self.max_length + 1) for text in texts]
        for found in shared_prompts.answers(self._runner(), cut, likelihood.Form()):
            next(found, None)

    def _runner(self) -> likelihood.Model:
        model = self.model
        is_prompted = isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning
        behind = model.get_base_model() if is_prompted else model

        def runs(module: Any) -> Callable[..., Any]:
            def call(**inputs: Any) -> Any:
                dtype = self.mixed_precision_dtype
                with torch.no_grad(), torch.autocast(self.device.type, dtype, enabled=dtype is not None):
                    return module(**inputs)

            return call

        own = model.get_base_model() if isinstance(model, PeftModel) else model
        takes_positions = "position_ids" in inspect.signature(own.forward).parameters
        size = int(self.batch_size)
        known = self._pads, self._shares, self.agreement
        return likelihood.Model(runs(model), runs(behind), takes_positions, self.dtype, size, self.device, *known)

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = True) -> list[float]:
        """Return the log-probability of each request's whole text in nats; long texts in windows of ``max_length``.

        Each text follows one beginning-of-text token, or end-of-text if there is none. If the tokenizer adds that token
        too, lm-eval's own method would have it twice, the second time as a token to predict.
        """
        windows = [self.windows(request.args[0]) for request in requests]
        found = iter(self.log_probabilities([window for text in windows for window in text]))
        return [sum(next(found)[0] for _ in text) for text in windows]

    def windows(self, text: str) -> list[Text]:
        """Return a text in windows of ``max_length`` tokens, of which each token is scored once."""
        pairs = get_rolling_token_windows(
            token_list=self.text_tokens(text),
            prefix_token=self.prefix_token_id,
            max_seq_len=self.max_length,
            context_len=1,
        )
        found = map(make_disjoint_window, pairs)
        return [Text((*context, *continuation), len(context)) for context, continuation in found]

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
