"""Answers are decoded with a model's cache only if a step from it gives the logits of a whole pass."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from peftbench.evaluation import cached_steps, passes, scoring, shared_prompts
from peftbench.measure.ledger import account
from peftbench.models.precision import PRECISIONS
from peftbench.records import Example, Task
from peftbench.runner import evaluating
from peftbench.tasks import read
from tests.support import architectures, families, trials
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
    assert cached_steps.why_not(base.model, PROMPT, "float32", 0, 64) is None
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


# the check is small, stays in the context, and is not part of what is measured

WORDS = [Example("one two three four " * 16 + word, "red") for word in ("yes", "no")]


def wrapped(base, length=64, batch_size=1):
    return scoring.Harness(
        base.model.eval(), base.tokenizer, trials.Evaluation(batch_size, length, "test"), PRECISIONS["fp32"]
    )


@pytest.mark.parametrize("new_tokens", [1, 2, 4])
@pytest.mark.parametrize("length", [2, 3, 128])
def test_the_check_stays_within_a_table_of_positions(new_tokens, length, tmp_path):
    base = loaded(architectures.make(tmp_path, "gpt2", n_positions=length), "lora", "fp32")
    task = Task("t", "exact_match", max_new_tokens=min(new_tokens, length - 1))
    harness = wrapped(base, length)
    sizes = []
    base.model.register_forward_pre_hook(lambda _, __, given: sizes.append(given["input_ids"].shape), with_kwargs=True)
    scores, _ = scoring.evaluate(harness, [task], {"t": WORDS})
    assert "decoded_without_cache" not in scores[0].settings
    assert harness._no_cache == {False: None}
    assert max(t for b, t in sizes if b == 2) <= 32 + 3


def test_evaluations_peak_does_not_contain_the_check(tiny):
    base = loaded(tiny, "lora", "fp32")
    task, harness = Task("t", "exact_match", max_new_tokens=1), wrapped(base)
    scoring.prove(harness, task, WORDS[:1])

    def peak():
        with account(base.model, False, {}) as counted:
            scoring.run_largest_batch(harness, task, WORDS[:1])
        return counted.peak_bytes

    first = peak()
    assert first == peak()


def test_the_times_of_passes_do_not_contain_the_check(tiny):
    base = loaded(tiny, "lora", "fp32")
    harness = wrapped(base)
    with passes.split(base.model, "cpu") as times:
        scoring.prove(harness, Task("t", "exact_match", max_new_tokens=4), WORDS)
    assert times.columns.evaluate_prefill_seconds == times.columns.evaluate_decode_seconds == 0


def test_a_check_that_runs_out_of_memory_decides_only_how_answers_are_decoded(tiny, tmp_path, monkeypatch):
    def none_left(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    base = loaded(tiny, "lora", "fp32")
    monkeypatch.setattr(cached_steps, "_distances", none_left)
    found, settings, examples = decoded(base, tmp_path)
    assert settings["decoded_without_cache"] == "memory ran out in the check of the model's cache"
    assert settings["batch_size"] == 4
    assert [text.strip() for text in found] == [direct(base, e.prompt, 6) for e in examples]


def test_a_trial_checks_before_it_measures(tiny, tmp_path, monkeypatch):
    events = []

    def told(place, name):
        whole = getattr(place, name)

        def run(*given, **named):
            events.append(name)
            return whole(*given, **named)

        monkeypatch.setattr(place, name, run)

    told(cached_steps, "why_not")
    told(shared_prompts, "_difference")
    told(evaluating, "account")
    told(evaluating.watch, "evaluation")
    row = trials.run(trials.trial(tiny, tmp_path, "lora"), tmp_path).row
    assert row.status == "ok"
    assert events == ["_difference", "why_not", "account", "account", "evaluation"]


def test_a_family_that_decodes_from_other_inputs_than_the_text_is_refused_before_it_is_trained(tmp_path):
    families.make(tmp_path, "xlm")
    row = trials.run(trials.trial(tmp_path, tmp_path, "lora", training={"steps": 1}), tmp_path).row
    assert (row.status, row.phase, row.steps_done) == ("unsupported", "check", None)
    assert "XLMWithLMHeadModel does not decode from the text alone" in row.message
    choices = trials.trial(tmp_path, tmp_path, "lora", training={"steps": 1}, evaluate=("colour",))
    assert trials.run(choices, tmp_path).row.status == "ok"


@pytest.mark.parametrize("family", ["roberta", "data2vec-text"])
def test_families_that_count_positions_from_the_padding_token_decode_as_a_pass_over_the_text(family, tmp_path):
    families.make(tmp_path / "base", family)
    base = loaded(tmp_path / "base", "lora", "fp32")
    with torch.no_grad():  # a random model writes the padding token, which these families read differently
        base.model.lm_head.bias[base.tokenizer.pad_token_id] = -1e4
    cached_steps.check_inputs(base.model, PROMPT, PRECISIONS["fp32"], "cpu", base.tokenizer.pad_token_id)
    found, settings, examples = decoded(base, tmp_path)
    assert "decoded_without_cache" not in settings
    assert [text.strip() for text in found] == [direct(base, e.prompt, 6) for e in examples]


@pytest.mark.parametrize("method", ["prompt_tuning", "prefix_tuning", "lora"])
def test_every_position_of_such_a_context_can_be_used_and_none_beyond(method, tmp_path):
    families.make(tmp_path / "base", "roberta")  # 256 positions, padding 2
    most = 253 - (0 if method == "lora" else 4)
    asked = trials.Evaluation(4, most, "test")
    training = {"sequence_length": most}
    assert trials.run(trials.trial(tmp_path / "base", tmp_path, method, evaluation=asked, training=training), tmp_path)
    beyond = dataclasses.replace(asked, max_length=most + 1)
    row = trials.run(trials.trial(tmp_path / "base", tmp_path, method, evaluation=beyond), tmp_path).row
    assert (row.status, row.message.rpartition("exceed ")[2]) == ("unsupported", "the base's context of 253")


def test_virtual_tokens_before_a_model_whose_code_takes_no_mask_are_decoded(tmp_path):
    families.make(tmp_path / "base", "xlstm")
    row = trials.run(trials.trial(tmp_path / "base", tmp_path, "prompt_tuning"), tmp_path).row
    assert row.status == "ok", row.message
