"""lm-eval's requests as peftbench makes them, answered by another engine: the same tokens, another program."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from peftbench.errors import Unsupported
from peftbench.evaluation import decoding, likelihood
from peftbench.evaluation.engine.client import Engine
from peftbench.evaluation.likelihood import Answer, Text
from peftbench.evaluation.lm_eval_model import Harness
from peftbench.models.precision import Precision
from peftbench.records import Evaluation
from peftbench.training.encoded import Encoded


class EngineHarness(Harness):
    """The wrapper that scores every model, of which an engine computes what the model would.

    Prompts, choices, tokens, stop texts and the reading of answers are those of ``Harness``. Its own model has no
    weights: it only says which model this is.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        longest: int,
        tokenizer: Any,
        evaluation: Evaluation,
        precision: Precision,
        learned_ends: Collection[str] = (),
        trust_remote_code: bool = False,
    ) -> None:
        """Wrap an engine.

        Args:
            engine: a running engine that has loaded the model.
            folder: the model's folder.
            longest: most tokens of a text with what is decoded after it, as the engine was told.
            tokenizer: the base model's.
            evaluation: how to score.
            precision: the precision in which the engine computes.
            learned_ends: as for ``Harness``.
            trust_remote_code: whether the folder's code may run.
        """
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        super().__init__(model, tokenizer, evaluation, precision, learned_ends)
        self.engine, self.longest = engine, longest

    def prove(self, texts: Sequence[Text]) -> None:
        """Find out nothing: how texts are run is the engine's affair."""

    def why_no_cache(self, ids: torch.Tensor, beams: int = 1) -> str | None:
        """Return None: how answers are decoded is the engine's affair."""
        return None

    def log_probabilities(self, texts: Sequence[Text]) -> list[Answer]:
        """Return the log-probability of each text's continuation, after at most ``max_length`` tokens before it."""
        self.form = likelihood.Form()
        cut = [text.cut(self.max_length + 1) for text in texts]
        self._check_length(max((len(text.ids) for text in cut), default=0) + 1)  # it decodes one token after each
        return self.engine.score([(text.ids[: text.start], text.ids[text.start :]) for text in cut])

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Return one answer per request, in order."""
        groups: dict[str, list[int]] = defaultdict(list)
        for place, request in enumerate(requests):
            groups[json.dumps(request.args[1], sort_keys=True, default=str)].append(place)
        answers: dict[int, decoding.Answer] = {}
        for places in groups.values():
            how = self.decoding_of(requests[places[0]].args[1])
            _check_greedy(self.engine.name, how)
            longest = self.max_length - how.max_new_tokens
            prompts = [self.tok_encode(requests[place].args[0], left_truncate_len=longest) for place in places]
            self._check_length(max(map(len, prompts)) + how.max_new_tokens)
            found = self.engine.generate(prompts, how.max_new_tokens, how.ends, how.stops)
            read = [decoding.read(self.tokenizer, ids, how) for ids in found]
            answers.update(zip(places, read, strict=True))
        self.unended = sum(not answer.ended for answer in answers.values())
        return [answers[place].text for place in range(len(requests))]

    def nats(self, encoded: Sequence[Encoded]) -> list[float]:
        """Return the summed loss of each text's target, as ``deployed.reading`` computes it of a model."""
        asked = [(place, Text(e.ids[:end], first)) for place, e in enumerate(encoded) for first, end in e.loss_spans]
        found = [0.0] * len(encoded)
        for (place, _), (logprob, _) in zip(asked, self.log_probabilities([text for _, text in asked]), strict=True):
            found[place] -= logprob
        return found

    def _check_length(self, tokens: int) -> None:
        if tokens > self.longest:
            raise Unsupported(
                f"{self.engine.name} decodes a token after each text; with it one has {tokens} tokens, more than the "
                f"base model's {self.longest} positions; give a smaller evaluate.max_length"
            )


def _check_greedy(engine: str, how: decoding.Decoding) -> None:
    """Check that answers are decoded in the one way that is the same in every engine.

    Raises:
        Unsupported: if they are not decoded greedily.
    """
    asked: Mapping[str, Any] = {n: value for n, value in how.parameters.items() if value != decoding.GREEDY[n]}
    if asked or how.ngrams or how.more:
        names = [*asked, *(["no_repeat_ngram_size"] if how.ngrams else []), *how.more]
        raise Unsupported(f"{engine} is asked for greedy decoding alone; the task asks for {', '.join(names)}")
