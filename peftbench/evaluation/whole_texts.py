"""Score a model with a head for whole texts: no lm-eval, since nothing is ranked by likelihood or decoded."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from peftbench.errors import Diverged
from peftbench.evaluation import influence
from peftbench.evaluation.metrics import classes, mean
from peftbench.evaluation.outcomes import Found
from peftbench.models import head
from peftbench.models.load import autocast
from peftbench.models.precision import Precision
from peftbench.records import Example, ExampleRow, Score, Task, Trial
from peftbench.tasks import HEADLINES
from peftbench.training.batches import collate
from peftbench.training.encoded import Encoded, encode_texts

_ROWS = 32
"""Texts in a forward pass if the suite leaves their number to the trial: they are short, and nothing is decoded."""


@dataclass(frozen=True)
class Reader:
    """A tuned model that reads whole texts, and how it is run."""

    model: Any
    tokenizer: Any
    precision: Precision
    device: str
    rows: int
    max_length: int

    @classmethod
    def of(cls, model: Any, tokenizer: Any, trial: Trial, precision: Precision) -> Reader:
        """Return the reader of a trial."""
        evaluation = trial.evaluation
        return cls(model, tokenizer, precision, trial.device, evaluation.batch_size or _ROWS, evaluation.max_length)

    def encoded(self, task: Task, examples: Sequence[Example]) -> list[Encoded]:
        """Return the examples in tokens."""
        return encode_texts(
            self.tokenizer, [((task.name, i), e) for i, e in enumerate(examples)], self.max_length, task
        )

    @torch.no_grad()
    def logits(self, texts: Sequence[Encoded]) -> torch.Tensor:
        """Return the logits of texts, (n, classes), in fp32 on the host; texts of similar length share a pass."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i].ids))
        found: dict[int, torch.Tensor] = {}
        for start in range(0, len(order), self.rows):
            chosen = order[start : start + self.rows]
            batch = collate([texts[i] for i in chosen], self.tokenizer.pad_token_id).to(self.device)
            with autocast(self.precision, self.device):
                given = head.logits(self.model, batch.inputs).float().cpu()
            found.update(zip(chosen, given, strict=True))
        return torch.stack([found[i] for i in range(len(texts))])


def run_largest_batch(reader: Reader, task: Task, examples: Sequence[Example]) -> None:
    """Run the batch of what scoring runs that has the most tokens."""
    longest = sorted(reader.encoded(task, examples), key=lambda e: len(e.ids))[-reader.rows :]
    reader.logits(longest)


def evaluate(reader: Reader, task: Task, examples: Sequence[Example]) -> tuple[Score, tuple[ExampleRow, ...]]:
    """Score a task.

    Raises:
        Diverged: if a logit is not finite.
    """
    texts = reader.encoded(task, examples)
    logits = reader.logits(texts)
    if not bool(logits.isfinite().all()):
        raise Diverged(f"task {task.name}: not all logits of the scored examples are finite")
    judge = _classified if task.kind == "classification" else _estimated
    rows, metrics = judge(task, examples, logits)
    each = [row.outcome for row in rows]
    value = mean(each)
    varies = len(set(each)) > 1
    spread = math.sqrt(sum((x - value) ** 2 for x in each) / (len(each) - 1)) if varies else None
    headline = task.metric or HEADLINES[task.kind][0]
    score = Score(
        task=task.name,
        metric=headline,
        value=value,
        standard_error=None if spread is None else spread / math.sqrt(len(each)),
        metrics={name: number for name, number in metrics.items() if math.isfinite(number)},
        examples=len(each),
        chance=_chance(task, headline),
        majority=_majority(task, examples, headline),
        format_failures=None,
        truncated_prompts=sum(e.truncated for e in texts),
        lost_prompts=0,
        settings={"dtype": reader.precision.compute, "batch_size": reader.rows, "outcomes": _outcomes(headline)},
    )
    return score, tuple(rows)


def _classified(task: Task, examples: Sequence[Example], logits: torch.Tensor) -> Found:
    """Take the class with the largest logit."""
    logprobs = logits.log_softmax(-1)
    said = [int(i) for i in logits.argmax(-1)]
    asked = [task.choices.index(e.target) for e in examples]
    right = [float(a == b) for a, b in zip(asked, said, strict=True)]
    metrics = {"accuracy": mean(right)}
    metrics |= classes([e.target for e in examples], [task.choices[i] for i in said])
    if task.metric in ("matthews", "f1_macro"):
        right = influence.of_classes(task.metric, asked, said, len(task.choices))
    found = zip(examples, said, right, logprobs.tolist(), strict=True)
    rows = [
        ExampleRow("", task.name, i, shown(e), e.target, task.choices[s], outcome, None, json.dumps(each))
        for i, (e, s, outcome, each) in enumerate(found)
    ]
    return rows, metrics


def _estimated(task: Task, examples: Sequence[Example], logits: torch.Tensor) -> Found:
    """Take the only output as the number."""
    from scipy.stats import spearmanr  # type: ignore[import-untyped]

    said = [float(x) for x in logits[:, 0]]
    asked = [float(task.choices.index(e.target) if task.choices else e.target) for e in examples]
    r, outcomes = influence.pearson(asked, said)
    metrics = {"mean_squared_error": mean([(a - b) ** 2 for a, b in zip(asked, said, strict=True)])}
    if r is not None:
        metrics |= {"pearson": r, "spearman": float(spearmanr(asked, said).statistic)}
    rows = [
        ExampleRow("", task.name, i, shown(e), e.target, f"{number:.6g}", outcome)
        for i, (e, number, outcome) in enumerate(zip(examples, said, outcomes, strict=True))
    ]
    return rows, metrics


def shown(example: Example) -> str:
    """Return what the model read of an example, a pair in two lines."""
    return f"{example.prompt}\n{example.second}" if example.second else example.prompt


def _outcomes(headline: str) -> str:
    if headline == "accuracy":
        return "1 if right, else 0"
    return "the metric plus the example's influence on it"


def _chance(task: Task, headline: str) -> float | None:
    if headline == "accuracy":
        return 1 / len(task.choices)
    return 0.0 if headline in ("matthews", "pearson") else None


def _majority(task: Task, examples: Sequence[Example], headline: str) -> float | None:
    """Return the score of always giving the most common class; None for numbers, of which none is common."""
    if task.kind != "classification":
        return None
    most = Counter(e.target for e in examples).most_common(1)[0][0]
    targets = [e.target for e in examples]
    if headline == "accuracy":
        return targets.count(most) / len(targets)
    return classes(targets, [most] * len(targets))[headline]
