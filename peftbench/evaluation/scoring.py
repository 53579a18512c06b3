"""Score a model on tasks through lm-eval; scores are means of per-example outcomes."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from lm_eval import evaluator

from peftbench.errors import UserError
from peftbench.evaluation import lm_eval_outcomes, outcomes, ranking
from peftbench.evaluation.lm_eval_model import Harness as Harness
from peftbench.evaluation.metrics import mean, share_choices
from peftbench.records import Example, ExampleRow, Score, Task
from peftbench.tasks import HEADLINES, lm_eval_export, lm_eval_tasks, reach
from peftbench.tasks.answers import read_answer
from peftbench.training.encoded import lost

_KINDS = {
    "choice": outcomes.choose,
    "exact_match": outcomes.match,
    "generation": outcomes.write,
    "language_modelling": outcomes.predict,
}
_OF_CLASSES = ("choice", "exact_match")
"""Kinds with a majority baseline: always giving the most common answer."""


def check_choices(
    tokenizer: Any, task: Task, examples: Sequence[Example], max_length: int, ended: bool = False
) -> None:
    """Check that every choice fits into evaluation's maximum length, as prompts may be truncated but choices may not.

    For a task of lm-eval, also check the number of tokens that it decodes, which the suite may not give.

    Args:
        tokenizer: the base model's.
        task: the task.
        examples: its scored examples.
        max_length: evaluation's maximum length.
        ended: whether choices are ranked with their end; its last token is predicted, not run.

    Raises:
        UserError: if one does not fit.
    """
    own = lm_eval_tasks.stand_in(task) if task.lm_eval else task
    if task.lm_eval and own.kind in reach.DECODED and own.max_new_tokens >= max_length:
        raise UserError(
            f"task {task.name!r}: lm-eval's task decodes up to {own.max_new_tokens} tokens; allowed: less than "
            f"evaluate.max_length ({max_length}): raise evaluate.max_length or set max_new_tokens"
        )
    reach.check_choices(
        own,
        [e if ended else replace(e, end="") for e in examples],
        lambda choice: len(tokenizer(f" {choice}", add_special_tokens=False)["input_ids"]),
        max_length,
    )


def evaluate(
    model: Harness, tasks: Sequence[Task], examples: Mapping[str, Sequence[Example]]
) -> tuple[tuple[Score, ...], tuple[ExampleRow, ...]]:
    """Score each task separately.

    Args:
        model: the wrapped model.
        tasks: the tasks to score.
        examples: task name -> examples to score.

    Returns:
        One score per task, and one row per example of all tasks.
    """
    scores, rows = [], []
    for task in tasks:
        found = examples[task.name]
        samples, reported = run_harness(model, task, found)
        if task.lm_eval:
            (mine, metrics), headline = lm_eval_outcomes.judge(task, found, samples, model)
            metrics = reported | metrics
        else:
            mine, metrics = _KINDS[task.kind](task, found, samples, model)
            headline = task.metric or HEADLINES[task.kind][0]
        scores.append(_score(model, task, found, (mine, metrics), headline))
        rows += mine
    return tuple(scores), tuple(rows)


def run_harness(model: Harness, task: Task, examples: Sequence[Example]) -> tuple[list[dict], dict[str, float]]:
    """Run one task through lm-eval; return its samples in document order and its metrics."""
    own = None if task.lm_eval else lm_eval_export.build(task, examples, model.tokenizer.eos_token)
    built = {task.name: lm_eval_tasks.build(task) if task.lm_eval else own}
    kept = lm_eval_tasks.samples(task, built[task.name]) if task.lm_eval else None
    asked = None if kept is None else {task.name: kept}
    with model.ranking(task, examples) if _is_ranked(task) else nullcontext():
        done = evaluator.evaluate(model, built, samples=asked, bootstrap_iters=0, log_samples=True)
    samples = sorted(done["samples"][task.name], key=lambda s: s["doc_id"])
    metrics = {
        name.removesuffix(",none"): float(value)
        for name, value in done["results"][task.name].items()
        if "," in name and isinstance(value, (int, float))
    }
    return samples, metrics


def _is_ranked(task: Task) -> bool:
    return task.kind == "choice" and not task.lm_eval


def _score(model: Harness, task: Task, examples: Sequence[Example], found: outcomes.Found, headline: str) -> Score:
    """Return the score of a task; its value is the mean outcome over examples."""
    rows, metrics = found
    own = lm_eval_tasks.stand_in(task) if task.lm_eval else task
    ranked = own.kind == "choice" and all(len(e.choices) > 1 for e in examples)
    each = [row.outcome for row in rows]
    cut = _cut(model, own, examples)
    value = mean(each)
    spread = math.sqrt(sum((x - value) ** 2 for x in each) / (len(each) - 1)) if len(each) > 1 else None
    flags = [row.format_ok for row in rows if row.format_ok is not None]
    return Score(
        task=task.name,
        metric=headline,
        value=value,
        standard_error=None if spread is None else spread / math.sqrt(len(each)),
        metrics={name: number for name, number in metrics.items() if math.isfinite(number)},
        examples=len(each),
        chance=mean([1 / len(e.choices) for e in examples]) if ranked else None,
        majority=_majority(task, examples),
        format_failures=flags.count(False) if flags else None,
        truncated_prompts=sum(what is not None for what in cut),
        lost_prompts=sum(what in ("whole_prompt", "answer_part") for what in cut),
        cut_answers=model.unended if own.kind in reach.DECODED else None,
        targets=_targets(model, task, examples),
        settings=_settings(model, task, examples),
    )


def _majority(task: Task, examples: Sequence[Example]) -> float | None:
    """Return the score of always giving the most common answer; None for tasks with free-form answers."""
    if task.kind not in _OF_CLASSES and not (task.lm_eval and share_choices(examples)):
        return None
    answers = [read_answer(task.answer_pattern, e.target) if task.answer_pattern else e.target for e in examples]
    return Counter(answers).most_common(1)[0][1] / len(examples)


def _settings(model: Harness, task: Task, examples: Sequence[Example]) -> dict[str, Any]:
    """Return the settings with which a task was scored."""
    shared = {"dtype": model.dtype, "batch_size": model.batch_size, "num_fewshot": task.num_fewshot or 0}
    if task.lm_eval:
        return shared | lm_eval_outcomes.settings(task, model)
    if _is_ranked(task):
        return shared | ranking.settings(
            task, model.choices(task, examples), task.name in model.learned_ends, model.form
        )
    if task.kind not in reach.DECODED:
        return shared
    asked = lm_eval_export.config(task, examples, model.tokenizer.eos_token)["generation_kwargs"]
    found = {"stop": asked["until"], "max_new_tokens": task.max_new_tokens, "parser": task.answer_pattern}
    if task.more_metrics and model.not_computed:
        found["not_computed"] = model.not_computed
    return shared | found | model.decoding_settings(asked)


def _targets(model: Harness, task: Task, examples: Sequence[Example]) -> dict[str, Any] | None:
    """Return how many targets decoding can give."""
    if task.kind not in reach.DECODED:
        return None
    stops = lm_eval_export.stops(task, examples, model.tokenizer.eos_token)
    return reach.count(task, examples, stops, _Speller(model.tokenizer)).settings()


@dataclass(frozen=True)
class _Speller:
    """The tokenizer as decoding uses it."""

    tokenizer: Any

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of texts without special tokens."""
        found: list[list[int]] = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def _cut(model: Harness, task: Task, examples: Sequence[Example]) -> list[str | None]:
    """Return what each example loses on its left, one of ``encoded.LOST``; None if nothing.

    Texts for language modelling are windowed, not truncated. The prompt of an answer that is decoded keeps at least a
    token.
    """
    if task.kind == "language_modelling":
        return [None] * len(examples)
    if task.kind == "choice":  # the last token is predicted and not run
        longest = [max(each, key=lambda text: len(text.ids)) for each in model.choices(task, examples)]
        return [lost(len(text.ids) - 1 - model.max_length, text.start) for text in longest]
    return [lost(size - model.max_length, size) for size in (_length(model, e, task) for e in examples)]


def _length(model: Harness, example: Example, task: Task) -> int:
    """Return the tokens that an example needs: the prompt, and the tokens to decode."""
    return len(model.tok_encode(example.prompt)) + task.max_new_tokens


def prove(model: Harness, task: Task, examples: Sequence[Example]) -> None:
    """Find out in which form a task can be run: from a cache, behind shared prompts, in padded batches.

    Scoring does it otherwise, among what is measured.
    """
    task = lm_eval_tasks.stand_in(task) if task.lm_eval else task
    if task.kind == "choice":
        model.prove([text for each in model.choices(task, examples) for text in each])
    elif task.kind == "language_modelling":
        model.prove([window for e in examples for window in model.windows(e.target)])
    elif examples:
        ids, _ = model.tok_batch_encode([max((e.prompt for e in examples), key=len)])
        model.why_no_cache(ids, task.num_beams)


def run_largest_batch(model: Harness, task: Task, examples: Sequence[Example]) -> None:
    """Run one batch of what scoring runs: the one with the most tokens, where evaluation's memory peak occurs.

    A task of lm-eval is replaced by one of peftbench's kinds with the same requirements.
    """
    task = lm_eval_tasks.stand_in(task) if task.lm_eval else task
    if task.kind == "choice":
        model.run_first_passes([text for each in model.choices(task, examples) for text in each])
    elif task.kind == "language_modelling":
        model.run_first_passes([window for e in examples for window in model.windows(e.target)])
    else:
        run_harness(model, task, largest_batch(model, task, examples))


def largest_batch(model: Harness, task: Task, examples: Sequence[Example]) -> list[Example]:
    """Return the examples that are decoded in the batch with the most tokens; prompts of a batch have equal length."""
    groups: dict[int, list[Example]] = defaultdict(list)
    for e in examples:
        groups[_length(model, e, task)].append(e)
    size = max(1, model.batch_size // task.num_beams)
    length = max(groups, key=lambda n: n * min(len(groups[n]), size))
    return groups[length][:size]
