"""Shapes: their configs are those of well-known models, weights are drawn when needed, nothing is scored."""

from __future__ import annotations

import dataclasses
import json
import time
import weakref
from pathlib import Path

import pytest
import torch
import transformers

from peftbench import suite
from peftbench.errors import UserError
from peftbench.models import builtin, find, random_weights
from peftbench.models import load as models_load
from peftbench.models.precision import PRECISIONS
from peftbench.records import Base
from peftbench.runner import trial
from peftbench.suite import trial_key
from tests.support import trials

PARAMETERS = {
    "falcon-7b": 6_921_720_704,
    "gpt-j-6b": 6_050_882_784,
    "gpt-neox-20b": 20_554_567_680,
    "gpt2-medium": 354_823_168,
    "llama-13b": 13_015_864_320,
    "llama-25m": 24_974_976,
    "llama-3-8b": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-65b": 65_285_660_672,
    "llama-7b": 6_738_415_616,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "opt-6.7b": 6_658_473_984,
    "roberta-base": 124_697_433,
}
"""Parameters of the published checkpoints, tied weights once; ``llama-25m`` is of no published model."""
SUITE = """
base: {base}
tasks: [compute]
methods: [base, lora]
"""


@pytest.mark.parametrize("name", builtin.SHAPES)
def test_a_shape_has_as_many_parameters_as_the_model_it_is_named_after(name):
    config = transformers.AutoConfig.from_pretrained(builtin.shape(name))
    with torch.device("meta"):
        made = transformers.AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in made.parameters()) == PARAMETERS[name]


def small(folder, **changes):
    """A folder with only a shape's config, reduced to two narrow layers."""
    config = json.loads((builtin.shape("llama-7b") / "config.json").read_text())
    config |= {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
    config |= {"num_key_value_heads": 2, "vocab_size": 1024} | changes
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def load(folder, precision):
    where = {"device": "cpu", "trust_remote_code": False, "random_weights": True}
    return models_load.load(folder, PRECISIONS[precision], False, True, **where)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4"])
def test_random_weights_are_stored_as_the_precision_says_and_are_the_same_every_time(precision, tmp_path):
    first, again = (load(small(tmp_path / "shape"), precision) for _ in range(2))
    assert {"fp32": 32, "bf16": 16, "int8": 12.2, "nf4": 10.3}[precision] >= 8 * first.weights_bytes / first.parameters
    sums = [{n: models_load.checksum(p) for n, p in found.model.named_parameters()} for found in (first, again)]
    assert sums[0] == sums[1]
    logits = first.model(input_ids=torch.arange(8)[None]).logits
    assert torch.isfinite(logits).all()
    assert float(logits.detach().std()) > 0


def test_norms_are_one_and_matrices_have_the_configs_standard_deviation(tmp_path):
    made = load(small(tmp_path / "shape", initializer_range=0.5), "fp32").model
    assert torch.equal(made.model.norm.weight, torch.ones(128))
    assert float(made.lm_head.weight.std()) == pytest.approx(0.5, rel=0.02)


def test_no_more_than_one_unquantized_weight_exists_at_a_time(tmp_path, monkeypatch):
    """Apart from parts that are never quantized: embeddings, head and norms."""
    linears = {(128, 128), (64, 128), (256, 128), (128, 256)}
    drawn, alive = weakref.WeakSet(), []
    draw = random_weights.Drawn.__getitem__

    def counted(self, index):
        made = draw(self, index)
        if tuple(made.shape) in linears:
            alive.append(sum(storage.nbytes() for storage in drawn))
            drawn.add(made.untyped_storage())
        return made

    monkeypatch.setattr(random_weights.Drawn, "__getitem__", counted)
    load(small(tmp_path / "shape"), "nf4")
    assert len(alive) == 14
    assert max(alive) <= 2 * 256 * 128, "in bytes of bf16: the one before, at most"


def test_a_trial_of_a_shape_is_measured_but_not_scored(tmp_path):
    folder = small(tmp_path / "shape")
    made = trials.trial(folder, tmp_path)
    made = dataclasses.replace(made, base=Base(str(folder), random_weights=True))
    result = trial.run(trials.job(made, tmp_path), time.perf_counter(), lambda _: None, lambda *_: None)
    assert (result.row.status, result.row.message) == ("ok", None)
    assert result.row.peak_train_bytes > result.row.base_weights_bytes > 0
    assert result.row.peak_evaluate_bytes > 0
    assert result.row.tokens_per_second > 0
    assert (result.scores, result.examples, json.loads(result.row.scores_json)) == ((), (), {})
    assert result.row.base == "shape"
    assert json.loads(result.row.settings_json)["base"]["random_weights"] is True


def test_random_weights_enter_the_key(tmp_path, tiny):
    made = trials.trial(tiny, tmp_path)
    drawn = dataclasses.replace(made, base=Base(str(tiny), random_weights=True))
    assert trial_key.key(made, "b", "d") != trial_key.key(drawn, "b", "d")
    assert trial_key.settings(made)["base"]["random_weights"] is False


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("{shape: llama-7b, source: nano}", "exactly one of source (a model) and shape"),
        ("{weights: random}", "exactly one of source (a model) and shape"),
        ("{source: nano, weights: random}", "base.weights: given 'random' (text); random weights need a shape"),
        ("{shape: llama-7b, revision: main}", "base.revision: a shape has random weights and no revision"),
        ("{shape: llama-7b, weights: real}", "base.weights"),
    ],
)
def test_a_wrong_base_is_reported_at_load(base, told, tmp_path):
    (tmp_path / "s.yaml").write_text(SUITE.format(base=base))
    with pytest.raises(UserError) as caught:
        suite.load(tmp_path / "s.yaml")
    assert told in str(caught.value)


def test_an_unknown_shape_is_refused_naming_the_nearest():
    with pytest.raises(UserError, match=r"unknown shape 'lama-7b'.*did you mean 'llama-7b'"):
        find.resolve_base(Base("lama-7b", random_weights=True))


def test_a_suite_names_a_shape(tmp_path):
    (tmp_path / "s.yaml").write_text(SUITE.format(base="{shape: llama-7b, weights: random}"))
    found = suite.expand(suite.load(tmp_path / "s.yaml"), "cpu")[0].base
    assert found == Base("llama-7b", random_weights=True)
    assert find.resolve_base(found) == builtin.shape("llama-7b")


def test_the_reference_of_suites_names_every_shape():
    text = (Path(__file__).parents[2] / "docs" / "suite.md").read_text()
    assert [name for name in builtin.SHAPES if f"`{name}`" not in text] == []
