"""Loading a base model is predicted as it is measured, and a plan asks whether that fits too."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import transformers

from peftbench.commands import memory_table
from peftbench.methods import TORCHAO
from peftbench.planner import depth, forecast, loading
from peftbench.planner import predict as planner
from peftbench.planner.predict import predict
from peftbench.planner.records import Pass, Question
from tests.support import architectures, loading_peak, stored_bases, tiny_base, trials

SHAPE = [Pass(1, 8)]
ROTARY = 1024
"""Bytes that computing a few frequencies takes, after all weights are there; the planner leaves them out."""
DRAWN = [
    ("mixtral", "nf4"),
    ("mixtral", "fp4-fp32"),
    ("llama", "int8"),
    ("llama", "int8-fp32"),
    ("gpt2", "nf4"),
    ("qwen3", "fp4"),
    *(("llama", name) for name in TORCHAO),
]


def shape(folder, family: str, **changes):
    """Write a config and a tokenizer; a model whose matrices are larger than its embeddings."""
    config = architectures.CONFIGS[family](**changes)
    config.architectures = [transformers.AutoModelForCausalLM._model_mapping[type(config)].__name__]
    config.save_pretrained(folder)
    tiny_base.tokenizer().save_pretrained(folder)
    return folder


def drawn(folder, tmp_path, precision: str, method: str = "lora", **changes):
    """Return a trial whose weights are drawn at random."""
    made = trials.trial(folder, tmp_path / "tasks", method, precision, **changes)
    return dataclasses.replace(made, base=dataclasses.replace(made.base, random_weights=True))


@pytest.mark.parametrize(("family", "precision"), DRAWN)
def test_loading_in_4_and_8_bits_is_predicted_to_the_byte(family, precision, tmp_path):
    if why := stored_bases.why_missing(precision):
        pytest.skip(why)
    folder = shape(tmp_path / "base", family, num_hidden_layers=4)
    loading_peak.measured(folder, precision, random_weights=True)  # the library makes its tables once
    found = predict(drawn(folder, tmp_path, precision), folder, SHAPE)
    assert found.loading_bytes == loading_peak.measured(folder, precision, random_weights=True)
    assert found.loading["temporaries"] > 0


@pytest.mark.parametrize(("method", "precision"), [("lora", "bf16"), ("full", "bf16"), ("full", "bf16-true")])
def test_loading_plain_weights_takes_the_weights(method, precision, tmp_path):
    folder = shape(tmp_path / "base", "llama")
    found = predict(drawn(folder, tmp_path, precision, method), folder, SHAPE)
    measured = loading_peak.measured(folder, precision, random_weights=True, trains_base=method == "full")
    assert found.base_weights_bytes < found.loading_bytes <= measured <= found.loading_bytes + ROTARY


@pytest.mark.parametrize("precision", ["nf4", "bf16", "bf16-true"])
def test_of_experts_in_files_the_prediction_is_a_bound_that_exceeds_by_less_than_a_layer(precision, tmp_path):
    config = architectures.CONFIGS["mixtral"](num_hidden_layers=4)
    tiny_base.tokenizer().save_pretrained(tmp_path / "base")
    transformers.MixtralForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "base")
    found = predict(trials.trial(tmp_path / "base", tmp_path / "tasks", "lora", precision), tmp_path / "base", SHAPE)
    measured = loading_peak.measured(tmp_path / "base", precision)
    layer = 2 * 4 * 3 * config.intermediate_size * config.hidden_size
    assert measured <= found.loading_bytes < measured + layer / 2


@pytest.mark.parametrize(("family", "precision"), [("mixtral", "nf4"), ("llama", "int8")])
def test_two_depths_determine_the_loading_of_a_deeper_model(family, precision, tmp_path, monkeypatch):
    folder = shape(tmp_path / "base", family, num_hidden_layers=9)
    made = drawn(folder, tmp_path, precision)
    found = predict(made, folder, SHAPE)
    assert len(found.depths) == 2
    monkeypatch.setattr(planner, "depths", lambda *_: depth.Depths(9, (9,)))
    assert predict(made, folder, SHAPE).loading == found.loading


@pytest.fixture
def joined(tmp_path):
    """Experts of which files have parts, so that putting them together needs more than a step of a few tokens."""
    return shape(tmp_path / "base", "mixtral", num_hidden_layers=1, intermediate_size=4096)


def test_a_plan_tells_where_loading_needs_more_than_training_and_fits_by_the_larger(joined, tmp_path):
    made = trials.trial(joined, tmp_path / "tasks", "prompt_tuning", "bf16", training={"micro_batch_size": 1})
    (found,) = forecast.forecasts([made], lambda _: joined, Question())
    assert found.found.needed_bytes == found.found.loading_bytes > found.found.peak_bytes
    text = " ".join(memory_table.lines([found], Question()))
    assert "Loading the base model needs more than a training step" in text
    assert f"{found.found.loading_bytes / 2**20:.2f}" in text
    for budget, fits in ((found.found.loading_bytes, True), (found.found.loading_bytes - 1, False)):
        (answer,) = forecast.forecasts([made], lambda _: joined, Question(budget=budget))
        assert answer.fits is fits


def test_a_model_whose_loading_cannot_be_traced_has_the_prediction_of_its_step(joined, tmp_path, monkeypatch):
    made = trials.trial(joined, tmp_path / "tasks", "prompt_tuning", "bf16")
    before = predict(made, joined, SHAPE)
    monkeypatch.setattr(loading, "_layers", lambda _: 1 / 0)
    after = predict(made, joined, SHAPE)
    assert after.loading_bytes is None
    assert after.needed_bytes == after.peak_bytes == before.peak_bytes
