"""Score a model on tasks through lm-eval: per-example outcomes first, scores from them."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM

from peftbench.errors import Diverged, UserError
from peftbench.precision import Precision
from peftbench.records import Evaluation, Example, ExampleRow, Score, Task
from peftbench.tasks import harness


class Harness(HFLM):
    """lm-eval's model wrapper, made safe for every method.

    Generation runs in batches of equal prompt length: with left padding, prompt tuning's order would become virtual
    tokens, padding, text. The log-likelihood cache is off: it mixes up requests whose contexts end alike.
    """

    def __init__(self, model: Any, tokenizer: Any, evaluation: Evaluation, precision: Precision) -> None:
        super().__init__(
            pretrained=model,
            tokenizer=tokenizer,
            backend="causal",
            batch_size=evaluation.batch_size,
            max_length=evaluation.max_length,
            mixed_precision_dtype=precision.autocast,
            softmax_dtype="float32",  # as the training loss; half precision would tie neighbouring choices
            logits_cache=False,
        )

    def tok_encode(
        self, string: str, *arguments: Any, left_truncate_len: int | None = None, **kwargs: Any
    ) -> list[int]:
        """Return a text's tokens without an end-of-text token that the tokenizer adds by itself, as in training."""
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

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Return one answer per request, in order."""
        groups: dict[int, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            groups[len(self.tok_encode(request.args[0]))].append(index)
        answers: dict[int, str] = {}
        for indices in groups.values():
            found = super().generate_until([requests[i] for i in indices], disable_tqdm=True)
            answers.update(zip(indices, found, strict=True))
        return [answers[i] for i in range(len(requests))]

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Return (log-probability in nats, greedy) per request."""
        return super().loglikelihood(requests, disable_tqdm=True)


def check_choices(tokenizer: Any, task: Task, examples: Sequence[Example], max_length: int) -> None:
    """See that every choice fits into the longest length of evaluation; its prompt may be cut, it may not.

    Raises:
        UserError: if one does not fit.
    """
    known: set[str] = set()
    for index, example in enumerate(examples):
        for choice in set(example.choices) - known:
            known.add(choice)
            tokens = len(tokenizer(f" {choice}", add_special_tokens=False)["input_ids"])
            if tokens >= max_length:
                raise UserError(
                    f"task {task.name!r}, example {index}: the choice {_short(choice)} has {tokens} tokens; allowed: "
                    f"less than evaluate.max_length, which is {max_length} (by default the longest sequence_length of "
                    "train): raise it, or shorten the choice"
                )


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")


def evaluate(
    harness_model: Harness, tasks: Sequence[Task], examples: Mapping[str, Sequence[Example]]
) -> tuple[tuple[Score, ...], tuple[ExampleRow, ...]]:
    """Score every task apart.

    Args:
        harness_model: the model, wrapped.
        tasks: the tasks to score.
        examples: task name -> evaluated examples.
    """
    scores, rows = [], []
    for task in tasks:
        found = examples[task.name]
        if task.kind == "choice":
            outcomes, extra = _choose(harness_model, task, found)
        else:
            outcomes, extra = _generate(harness_model, task, found)
        cut = sum(_length(harness_model, e, task) > harness_model.max_length for e in found)
        scores.append(_score(task, found, outcomes, (extra, cut)))
        rows += outcomes
    return tuple(scores), tuple(rows)


def run_harness(harness_model: Harness, task: Task, examples: Sequence[Example]) -> tuple[list[dict], dict[str, float]]:
    """Run one task through lm-eval; return its samples in document order and its metrics."""
    done = evaluator.evaluate(
        harness_model, {task.name: harness.build(task, examples)}, bootstrap_iters=0, log_samples=True
    )
    samples = sorted(done["samples"][task.name], key=lambda s: s["doc_id"])
    metrics = {
        name.partition(",")[0]: float(value)
        for name, value in done["results"][task.name].items()
        if name.endswith(",none") and isinstance(value, (int, float))
    }
    return samples, metrics


def _choose(model: Harness, task: Task, examples: Sequence[Example]) -> tuple[list[ExampleRow], dict[str, float]]:
    """Rank the choices of each example by their log-probability."""
    samples, metrics = run_harness(model, task, examples)
    rows = []
    for index, (e, sample) in enumerate(zip(examples, samples, strict=True)):
        logprobs = [float(response[0]) for response in sample["filtered_resps"]]
        if not all(map(math.isfinite, logprobs)):
            raise Diverged(f"task {task.name}, example {index}: log-probabilities {logprobs}")
        first = e.choices[max(range(len(logprobs)), key=logprobs.__getitem__)]
        outcome = float(sample["acc"])
        rows.append(ExampleRow("", task.name, index, e.prompt, e.target, first, outcome, None, json.dumps(logprobs)))
    return rows, {"accuracy": metrics["acc"]}


def _generate(model: Harness, task: Task, examples: Sequence[Example]) -> tuple[list[ExampleRow], dict[str, float]]:
    """Decode one answer per example, greedily."""
    samples, metrics = run_harness(model, task, examples)
    answers = [str(sample["filtered_resps"][0]).strip() for sample in samples]
    if task.kind == "exact_match":
        outcomes = [float(sample["exact_match"]) for sample in samples]
        longest = max(len(e.target.split()) for e in examples)
        readable = [0 < len(answer.split()) <= longest for answer in answers]
    else:
        outcomes = [_rouge_l(answer, e.references or (e.target,)) for answer, e in zip(answers, examples, strict=True)]
        readable = [bool(answer) for answer in answers]
        metrics = {"rouge_l": _mean(outcomes), **_corpus(answers, examples)}
    rows = [
        ExampleRow("", task.name, i, e.prompt, e.target, answers[i], outcomes[i], readable[i])
        for i, e in enumerate(examples)
    ]
    return rows, metrics


class _Words:
    """Splits text into lower-case words of any script, where rouge_score's own knows a to z alone."""

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        return re.findall(r"\w+", text.lower())


def _rouge_l(answer: str, references: Sequence[str]) -> float:
    """Return the best ROUGE-L F1 over the references."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    return max(scorer.score(reference, answer)["rougeL"].fmeasure for reference in references)


def _corpus(answers: Sequence[str], examples: Sequence[Example]) -> dict[str, float]:
    """Return corpus BLEU and chrF over all references and the share of answers that hold every slot, as fractions."""
    import sacrebleu

    most = max(len(e.references) or 1 for e in examples)
    padded = [list(e.references or (e.target,)) for e in examples]
    streams = [[refs[k] if k < len(refs) else refs[0] for refs in padded] for k in range(most)]
    found = {
        "bleu": sacrebleu.corpus_bleu(list(answers), streams).score / 100,
        "chrf": sacrebleu.corpus_chrf(list(answers), streams).score / 100,
    }
    if any(e.slots for e in examples):
        found["slots_right"] = _mean(
            [float(all(s in a for s in e.slots)) for a, e in zip(answers, examples, strict=True)]
        )
    return found


def _score(
    task: Task, examples: Sequence[Example], rows: Sequence[ExampleRow], found: tuple[dict[str, float], int]
) -> Score:
    """Put a task's outcomes into one record; the headline is the mean outcome over examples."""
    metrics, cut = found
    outcomes = [row.outcome for row in rows]
    value = _mean(outcomes)
    spread = math.sqrt(sum((x - value) ** 2 for x in outcomes) / (len(outcomes) - 1)) if len(outcomes) > 1 else None
    commonest = Counter(e.target for e in examples).most_common(1)[0][1]
    return Score(
        task=task.name,
        metric={"choice": "accuracy", "exact_match": "exact_match", "generation": "rouge_l"}[task.kind],
        value=value,
        standard_error=None if spread is None else spread / math.sqrt(len(outcomes)),
        metrics=metrics,
        examples=len(outcomes),
        chance=_mean([1 / len(e.choices) for e in examples]) if task.kind == "choice" else None,
        majority=None if task.kind == "generation" else commonest / len(examples),
        format_failures=None if task.kind == "choice" else sum(not row.format_ok for row in rows),
        truncated_prompts=cut,
    )


def _length(model: Harness, example: Example, task: Task) -> int:
    """Return the tokens that an example needs: prompt and longest choice, or prompt and room to answer."""
    if task.kind == "choice":
        return max(len(model.tok_encode(f"{example.prompt} {c}")) for c in example.choices)
    return len(model.tok_encode(example.prompt)) + task.max_new_tokens


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def largest_batch(model: Harness, task: Task, examples: Sequence[Example]) -> list[Example]:
    """Return the batch of a task's examples whose forward pass holds most tokens: evaluation's peak is there.

    Log-probabilities are computed longest first; generation runs in batches of equal prompt length.
    """
    by_length = sorted(examples, key=lambda e: -_length(model, e, task))
    if task.kind == "choice":
        return by_length[: model.batch_size]
    groups: dict[int, list[Example]] = defaultdict(list)
    for e in examples:
        groups[_length(model, e, task)].append(e)
    length = max(groups, key=lambda n: n * min(len(groups[n]), model.batch_size))
    return groups[length][: model.batch_size]
