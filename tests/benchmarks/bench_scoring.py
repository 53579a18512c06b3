"""Scoring and decoding through peftbench against lm-eval and ``generate`` called directly, on the same model and texts.

Each round makes a new wrapper on both sides, as a trial does, so that ours includes what it finds out first: whether
texts may be padded and whether prompts may be run once. Whether the cache may be trusted is found out once per trial,
in a time that does not depend on the number of answers: it has a line of its own.
"""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lm_eval import evaluator
from lm_eval.models.huggingface import HFLM

from peftbench.evaluation import scoring
from peftbench.models.precision import PRECISIONS
from peftbench.records import Evaluation, Example, Task
from peftbench.tasks import lm_eval_export
from tests.benchmarks import subjects

ROUNDS, WARM_UP = 10, 1
WORDS = "one two three four red green blue sum of is the colour sky grass yes no"
LENGTH, BATCH = 256, 8
"""Most tokens of a text, and texts in a batch."""
PROMPTS, NEW_TOKENS = 8, 32
"""Prompts whose answers are decoded, and tokens of an answer."""
CLOSE = 1e-3
"""Difference of log-probabilities, in nats, below which two computations did the same work."""


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Any:
    return subjects.loaded(subjects.base(tmp_path_factory.mktemp("bases") / "made"), "fp32")


def text(draw: random.Random, words: int) -> str:
    return " ".join(draw.choice(WORDS.split()) for _ in range(words))


def ranked(examples: int, choices: int, words: int) -> list[Example]:
    """Return examples with a prompt of some words and choices of three words each."""
    draw = random.Random(0)
    labels = sorted({text(draw, 3) for _ in range(4 * choices)})[:choices]
    assert len(labels) == choices
    return [Example(text(draw, words), labels[0], tuple(labels)) for _ in range(examples)]


def against_lm_eval(base: Any, task: Task, examples: list[Example], benchmark: Any) -> tuple[list, Any]:
    """Score in turns; return pairs of (lm-eval's, our) seconds of wall and CPU time, and our last wrapper."""
    how = Evaluation(batch_size=BATCH, max_length=LENGTH, split="test")
    last = SimpleNamespace(harness=None, ours=None, theirs=None)

    def theirs() -> None:
        wrapped = HFLM(
            pretrained=base.model, tokenizer=base.tokenizer, backend="causal", batch_size=BATCH, max_length=LENGTH
        )
        built = {task.name: lm_eval_export.build(task, examples, base.tokenizer.eos_token)}
        found = evaluator.evaluate(wrapped, built, bootstrap_iters=0, log_samples=True)
        last.theirs = sorted(found["samples"][task.name], key=lambda sample: sample["doc_id"])

    def ours() -> None:
        last.harness = scoring.Harness(base.model, base.tokenizer, how, PRECISIONS["fp32"])
        scoring.evaluate(last.harness, [task], {task.name: examples})

    base.model.eval()
    pairs: list[tuple[Any, Any]] = []

    def turn() -> None:
        first, second = (theirs, ours) if len(pairs) % 2 else (ours, theirs)
        taken = {work: subjects.timed(work) for work in (first, second)}
        pairs.append((taken[theirs], taken[ours]))

    benchmark.pedantic(turn, rounds=ROUNDS, warmup_rounds=WARM_UP)
    samples, _ = scoring.run_harness(last.harness, task, examples)
    for mine, other in zip(samples, last.theirs, strict=True):
        assert logprobs(mine) == pytest.approx(logprobs(other), abs=CLOSE)
    return pairs[WARM_UP:], last.harness


def logprobs(sample: dict[str, Any]) -> list[float]:
    """Return the log-probabilities in a sample of lm-eval."""
    found = [each[0] if isinstance(each, list | tuple) else each for each in sample["filtered_resps"]]
    return [float(each[0] if isinstance(each, list | tuple) else each) for each in found]


def lines(record_line: Any, name: str, pairs: list, goal: str = "at most 1.03") -> None:
    for kind, column in (("wall time", 0), ("CPU time", 1)):
        record_line(f"{name}, {kind}", [(a[column], b[column]) for a, b in pairs], "ratio", goal)


@pytest.mark.parametrize(("choices", "examples", "words"), [(4, 24, 12), (77, 2, 48)])
def bench_choices_against_lm_eval(choices, examples, words, base, benchmark, record_line):
    task = Task(name="ranked", kind="choice", prompt="{{ prompt }}", target="{{ target }}")
    pairs, harness = against_lm_eval(base, task, ranked(examples, choices, words), benchmark)
    assert harness.form.shared, harness.form.reason
    lines(record_line, f"scoring, {choices} choices of a prompt: ours / lm-eval", pairs)


def bench_whole_texts_against_lm_eval(base, benchmark, record_line):
    draw = random.Random(0)
    examples = [Example("", text(draw, draw.randint(20, 40))) for _ in range(24)]
    task = Task(name="texts", kind="language_modelling", prompt="", target="{{ target }}")
    pairs, _ = against_lm_eval(base, task, examples, benchmark)
    lines(record_line, "scoring, log-probability of whole texts: ours / lm-eval", pairs)


def bench_answers_against_generate(base, benchmark, record_line):
    """Decode answers of which no token ends one, and with ``generate`` from the same prompts with a static cache."""
    draw = random.Random(0)
    prompts = [" ".join(["is", *draw.choices(("red", "sky", "yes"), k=16)]) for _ in range(PROMPTS)]
    examples = [Example(prompt, "no") for prompt in prompts]
    task = Task(name="answers", kind="generation", prompt="", target="", max_new_tokens=NEW_TOKENS, stop=("\0",))
    how = Evaluation(batch_size=BATCH, max_length=LENGTH, split="test")
    ids = torch.tensor(base.tokenizer(prompts)["input_ids"])
    last = SimpleNamespace(harness=None, ours=None, theirs=None)
    base.model.eval()

    def generated(**how: Any) -> None:
        last.theirs = torch.cat(
            [
                base.model.generate(
                    input_ids=part,
                    attention_mask=torch.ones_like(part),
                    max_new_tokens=NEW_TOKENS,
                    min_new_tokens=None,
                    do_sample=False,
                    eos_token_id=None,
                    pad_token_id=base.tokenizer.pad_token_id,
                    **how,
                )
                for part in ids.split(BATCH)
            ]
        )

    def proven() -> None:
        last.harness = scoring.Harness(base.model, base.tokenizer, how, PRECISIONS["fp32"])
        scoring.prove(last.harness, task, examples)

    def ours() -> None:
        requests = lm_eval_export.build(task, examples, base.tokenizer.eos_token)
        requests.build_all_requests(rank=0, world_size=1)
        last.ours = last.harness.generate_until(requests.instances)
        assert last.harness.unended == PROMPTS

    turns: list[dict[str, Any]] = []
    others = {"a static cache": {"cache_implementation": "static"}, "a dynamic cache": {}}

    def turn() -> None:
        taken = {name: subjects.timed(lambda how=how: generated(**how)) for name, how in others.items()}
        turns.append({**taken, "check": subjects.timed(proven), "ours": subjects.timed(ours)})

    benchmark.pedantic(turn, rounds=ROUNDS, warmup_rounds=WARM_UP)
    decoded = [base.tokenizer.decode(row, skip_special_tokens=True) for row in last.theirs[:, ids.shape[1] :].tolist()]
    assert last.ours == decoded
    for name in others:
        pairs = [(each[name], each["ours"]) for each in turns[WARM_UP:]]
        lines(record_line, f"decoding {NEW_TOKENS} tokens: ours / generate with {name}", pairs)
    shares = [each["check"][1] / each["ours"][1] for each in turns[WARM_UP:]]
    record_line(f"check of the cache, once per trial / decoding {PROMPTS} answers, CPU time", shares, "share")
