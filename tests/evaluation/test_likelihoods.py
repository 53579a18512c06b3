"""Log-probabilities through lm-eval are those of a direct forward pass, in every family of models with every method.

Prompts of different lengths share a batch, few-shot prompts are truncated on the left, and texts are windowed: virtual
tokens, position ids, padding and caches are the usual sources of errors.
"""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from peftbench.evaluation import scoring
from peftbench.measure.clock import Clock
from peftbench.models.precision import PRECISIONS
from peftbench.records import Example, Task
from peftbench.tasks import fewshot, read
from peftbench.training import loop
from tests.support import architectures, trials
from tests.support.method_cells import attached, logits
from tools.validation import matrix

SAMPLE = [
    ("mixtral", "lora"),
    ("falcon", "qlora"),
    ("gemma3", "prefix_tuning"),
    ("bloom", "full"),
    ("opt", "llama_adapter"),
    ("glm4", "adapter"),
    ("phi", "prompt_tuning"),
]
ALL = [(f, name) for f in architectures.CONFIGS for name in matrix.NAMES]
CELLS = SAMPLE + [pytest.param(*cell, marks=pytest.mark.slow) for cell in ALL if cell not in SAMPLE]
LONGEST = 24
"""Maximum length in tokens, at which few-shot prompts are truncated and a text needs several windows."""


def storage_of(name):
    return "nf4" if name == "qlora" else "fp32"


def test_the_sample_covers_every_method_and_the_pitfalls_of_positions():
    assert {name for _, name in SAMPLE} == set(matrix.NAMES)
    assert len(ALL) == 13 * 7


def direct(tuned, storage, ids, answer):
    """The log-probability of the last ``answer`` tokens in a separate pass, with as many tokens before them as fit."""
    ids = torch.tensor([ids[-(LONGEST + 1) :]])
    found = logits(tuned, storage, ids[:, :-1]).float().log_softmax(-1)[0]
    return sum(float(found[i - 1, ids[0, i]]) for i in range(ids.shape[1] - answer, ids.shape[1]))


def asked(folder):
    """Short prompts and few-shot ones, each with three choices."""
    task = dataclasses.replace(trials.tasks(folder)[0], limit=3, num_fewshot=2)
    return task, [*read.examples(task, "test"), *fewshot.scored(task, "test")]


@pytest.mark.parametrize(("family", "name"), CELLS)
def test_log_probabilities_are_those_of_a_direct_forward_pass(family, name, tmp_path):
    storage = storage_of(name)
    if matrix.status(family, name, storage) == "unsupported":
        pytest.skip("there is no such cell")
    torch.set_num_threads(1)
    base, learner, plan = attached(architectures.make(tmp_path / "base", family), name, storage, tmp_path)
    loop.train(learner, plan[:2], [], Clock(), lambda *_: None)
    tuned, encode = learner.model.eval(), base.tokenizer.encode
    task, examples = asked(tmp_path)
    lengths = [len(encode(e.prompt)) for e in examples]
    assert min(lengths) < LONGEST < max(lengths), "some prompts fit and some are cut, or no trap"
    text = " ".join(e.prompt for e in examples)
    wrapped = scoring.Harness(tuned, base.tokenizer, trials.Evaluation(5, LONGEST, "test"), PRECISIONS[storage])
    tasks = [task, Task("text", "language_modelling")]
    _, rows = scoring.evaluate(wrapped, tasks, {"colour": examples, "text": [Example("", text)]})
    close = 1e-3 if storage == "fp32" else 0.2  # per token, as 16 bits round differently in another batch
    for e, row in zip(examples, rows, strict=False):
        for choice, logprob in zip(e.choices, json.loads(row.choice_logprobs), strict=True):
            whole = encode(f"{e.prompt} {choice}")
            answer = len(whole) - len(encode(e.prompt))
            assert logprob == pytest.approx(direct(tuned, storage, whole, answer), abs=close * answer)
    ids = [base.tokenizer.bos_token_id, *encode(text, add_special_tokens=False)]
    assert len(ids) > 3 * LONGEST
    starts = range(1, len(ids), LONGEST)
    windows = [(ids[: start + LONGEST], len(ids[start : start + LONGEST])) for start in starts]
    expected = sum(direct(tuned, storage, *window) for window in windows)
    assert json.loads(rows[-1].choice_logprobs)[0] == pytest.approx(expected, abs=close * len(ids))
