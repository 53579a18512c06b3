"""Answers are decoded with a model's cache only if a step from it gives the logits of a whole pass."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from peftbench.evaluation import cached_steps, scoring
from peftbench.models.precision import PRECISIONS
from peftbench.tasks import read
from tests.support import families, trials
from tests.support.method_cells import loaded, logits

PROMPT = torch.arange(40, 52)[None]


@pytest.fixture(scope="module")
def rwkv(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rwkv")
    families.make(folder, "rwkv")
    return folder


def decoded(base, folder):
    """The answers of a base model to some prompts, the settings of the score, and the prompts."""
    task = dataclasses.replace(trials.tasks(folder)[2], max_new_tokens=6)
    examples = read.examples(task, "train")[:4]
    harness = scoring.Harness(base.model.eval(), base.tokenizer, trials.Evaluation(4, 48, "test"), PRECISIONS["fp32"])
    scores, rows = scoring.evaluate(harness, [task], {task.name: examples})
    return [row.prediction for row in rows], scores[0].settings, examples


def direct(base, prompt, count):
    """The greedy answer of ``count`` tokens without a cache."""
    ids = base.tokenizer.encode(prompt)
    start = len(ids)
    while len(ids) - start < count and ids[-1] != base.tokenizer.eos_token_id:
        ids.append(int(logits(base.model, "fp32", torch.tensor([ids]))[0, -1].argmax()))
    return base.tokenizer.decode(ids[start:], skip_special_tokens=True).partition("\n")[0].strip()


def test_a_sound_cache_is_used(tiny, tmp_path):
    base = loaded(tiny, "lora", "fp32")
    assert cached_steps.why_not(base.model, PROMPT, "float32", 0) is None
    _, settings, _ = decoded(base, tmp_path)
    assert "decoded_without_cache" not in settings


def test_a_family_whose_state_is_not_a_whole_pass_is_decoded_without_it(rwkv, tmp_path):
    base = loaded(rwkv, "lora", "fp32")
    found, settings, examples = decoded(base, tmp_path)
    assert "% apart from those of a whole pass" in settings["decoded_without_cache"]
    assert [text.strip() for text in found] == [direct(base, e.prompt, 6) for e in examples]


def test_a_model_that_fails_with_its_cache_is_decoded_without_it(tiny, tmp_path, monkeypatch):
    base = loaded(tiny, "lora", "fp32")
    whole = type(base.model).forward

    def forward(self, *given, **named):
        if named.get("use_cache") and named["input_ids"].shape[1] == 1:
            raise IndexError("list index out of range")
        return whole(self, *given, **named)

    monkeypatch.setattr(type(base.model), "forward", forward)
    found, settings, examples = decoded(base, tmp_path)
    assert settings["decoded_without_cache"] == (
        "the model does not continue from its cache: IndexError: list index out of range"
    )
    assert [text.strip() for text in found] == [direct(base, e.prompt, 6) for e in examples]


def test_inference_is_not_measured_with_such_a_cache(rwkv, tmp_path):
    made = trials.trial(rwkv, tmp_path, "full", training={"steps": 1})
    row = trials.run(made, tmp_path, measures_inference=True).row
    assert row.status == "ok"
    assert "from those of a whole pass" in json.loads(row.inference_json)["reasons"]["generate"]
