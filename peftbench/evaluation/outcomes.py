"""One outcome per example from lm-eval's samples, and metrics over all examples, for each kind of task."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from peftbench.errors import Diverged, UserError
from peftbench.evaluation import metrics, more_metrics
from peftbench.evaluation.lm_eval_model import Harness
from peftbench.records import Example, ExampleRow, Task, patterns
from peftbench.tasks.answers import read_answer

Found = tuple[list[ExampleRow], dict[str, float]]
"""One row per example, and metrics over all examples by name."""


def finite(logprobs: Sequence[float], task: Task, index: int) -> Sequence[float]:
    """Return log-probabilities unchanged if all are finite.

    Raises:
        Diverged: if one is not.
    """
    if not all(map(math.isfinite, logprobs)):
        raise Diverged(f"task {task.name}, example {index}: log-probabilities {list(logprobs)}")
    return logprobs


def choose(task: Task, examples: Sequence[Example], samples: Sequence[Mapping[str, Any]], _: Harness) -> Found:
    """Rank the choices of each example by their log-probability, per byte if ``accuracy_norm`` is the headline."""
    rows = []
    rights: dict[str, list[float]] = {"accuracy": [], "accuracy_norm": []}
    headline = task.metric or "accuracy"
    for index, (e, sample) in enumerate(zip(examples, samples, strict=True)):
        logprobs = finite([float(response[0]) for response in sample["filtered_resps"]], task, index)
        right = {"accuracy": float(sample["acc"]), "accuracy_norm": float(sample["acc_bytes"])}
        for name, value in right.items():
            rights[name].append(value)
        sizes = [len(c.encode()) if headline == "accuracy_norm" else 1 for c in e.choices]
        ranks = [logprob / size for logprob, size in zip(logprobs, sizes, strict=True)]
        first = e.choices[max(range(len(ranks)), key=ranks.__getitem__)]
        values = (e.prompt, e.target, first, right[headline], None, json.dumps(logprobs))
        rows.append(ExampleRow("", task.name, index, *values))
    found = {name: metrics.mean(values) for name, values in rights.items()}
    if metrics.share_choices(examples):
        found |= metrics.classes([e.target for e in examples], [row.prediction for row in rows])
    return rows, found


def match(task: Task, examples: Sequence[Example], samples: Sequence[Mapping[str, Any]], _: Harness) -> Found:
    """Compare the answers that the task's pattern finds in each decoded text and in its targets, one of which counts.

    Without a pattern the whole text is the answer. A text with more words than any target then is a format failure.

    Raises:
        UserError: if the pattern takes too long on a text.
    """
    longest = max(len(reference.split()) for e in examples for reference in e.references or (e.target,))
    rows = []
    for index, (e, sample) in enumerate(zip(examples, samples, strict=True)):
        text = str(sample["filtered_resps"][0]).strip()
        if task.answer_pattern is None:
            right, readable = bool(sample["exact_match"]), 0 < len(text.split()) <= longest
        else:
            try:
                answer = read_answer(task.answer_pattern, text)
            except patterns.TooSlow as error:
                raise UserError(f"task {task.name!r}: answer_pattern, answer to example {index}: {error}") from None
            readable = answer is not None
            known = {read_answer(task.answer_pattern, reference) for reference in e.references or (e.target,)}
            right = readable and answer in known
        rows.append(ExampleRow("", task.name, index, e.prompt, e.target, text, float(right), readable))
    return rows, {"exact_match": metrics.mean([row.outcome for row in rows])}


def write(task: Task, examples: Sequence[Example], samples: Sequence[Mapping[str, Any]], model: Harness) -> Found:
    """Compare each decoded text with its references; the model keeps why a metric could not be computed."""
    texts = [str(sample["filtered_resps"][0]).strip() for sample in samples]
    rows = []
    for index, (e, text) in enumerate(zip(examples, texts, strict=True)):
        outcome = metrics.rouge_l(text, e.references or (e.target,))
        rows.append(ExampleRow("", task.name, index, e.prompt, e.target, text, outcome, bool(text)))
    references = [e.references or (e.target,) for e in examples]
    more, model.not_computed = more_metrics.compute(task.more_metrics, texts, references)
    return rows, {"rouge_l": metrics.mean([row.outcome for row in rows]), **metrics.corpus(texts, examples), **more}


def predict(task: Task, examples: Sequence[Example], samples: Sequence[Mapping[str, Any]], model: Harness) -> Found:
    """Compute the likelihood of each text; nothing is decoded."""
    logprobs = [finite([float(s["filtered_resps"][0])], task, index)[0] for index, s in enumerate(samples)]
    texts = [e.target for e in examples]
    rows = []
    for index, (e, logprob) in enumerate(zip(examples, logprobs, strict=True)):
        outcome = metrics.probability_per_byte(logprob, e.target)
        values = (e.prompt, e.target, "", outcome, None, json.dumps([logprob]))
        rows.append(ExampleRow("", task.name, index, *values))
    tokens = sum(len(model.text_tokens(text)) for text in texts)
    headline = {"probability_per_byte": metrics.mean([row.outcome for row in rows])}
    return rows, headline | metrics.likelihood(logprobs, texts, tokens)
