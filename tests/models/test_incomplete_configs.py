"""Configs without a padding id, a width or a number of layers: read from the model, or refused with the reason."""

from __future__ import annotations

import pytest
import torch
import transformers

from peftbench.errors import Unsupported
from peftbench.methods import METHODS
from peftbench.models import causality, layers
from peftbench.models.precision import PRECISIONS
from peftbench.planner import predict
from peftbench.records.resolve import resolve
from tests.support import tiny_base, trials
from tests.support.method_cells import TRAINED
from tests.support.sample import sample


@pytest.fixture(scope="module")
def codegen(tmp_path_factory):
    """CodeGen's config class has no ``pad_token_id``."""
    folder = tmp_path_factory.mktemp("codegen") / "base"
    tiny_base.tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"n_embd": 64, "n_head": 4, "n_layer": 3, "n_positions": 128, "rotary_dim": 8, "initializer_range": 0.2}
    dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    made = transformers.CodeGenConfig(vocab_size=320, bos_token_id=0, eos_token_id=1, **sizes, **dropout)
    assert not hasattr(made, "pad_token_id")
    transformers.AutoModelForCausalLM.from_config(made).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", sample(["base", *(name for name in TRAINED if name != "peft")], 3))
def test_every_method_takes_a_base_without_a_padding_id_or_says_why_not(name, codegen, tmp_path):
    precision = METHODS[name].default_precision
    row = trials.run(trials.trial(codegen, tmp_path, name, precision, training={"steps": 2}), tmp_path).row
    if name == "llama_adapter":
        assert row.status == "unsupported"
        assert "CodeGenAttention" in row.message
    else:
        assert (row.status, row.message) == ("ok", None)


def without(*names):
    """A small Llama whose config lacks some attributes."""
    config = transformers.LlamaConfig(
        vocab_size=320, hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4
    )
    model = transformers.AutoModelForCausalLM.from_config(config)
    for name in names:
        model.config.__dict__.pop(name)
        assert not hasattr(model.config, name)
    return model


@pytest.fixture
def bare(monkeypatch):
    """Let a config lack attributes that its class gives a default."""
    for name in ("hidden_size", "num_hidden_layers", "vocab_size", "pad_token_id"):
        if name in vars(transformers.LlamaConfig):
            monkeypatch.delattr(transformers.LlamaConfig, name)


def test_the_width_is_read_from_the_embeddings(bare):
    assert layers.width(without("hidden_size")) == 64


def test_the_vocabulary_is_read_from_the_embeddings(bare):
    causality.check(without("vocab_size", "pad_token_id"), PRECISIONS["fp32"], "cpu")


@pytest.mark.parametrize("name", ["adapter", "llama_adapter"])
def test_methods_on_layers_refuse_a_base_that_does_not_state_how_many_it_has(name, bare):
    options = {key: setting.default for key, setting in METHODS[name].options.items()}
    with pytest.raises(Unsupported, match=f"{name}: LlamaForCausalLM states no number of decoder layers in its config"):
        resolve(METHODS[name].attach)(without("num_hidden_layers"), 4, options)


def test_the_planner_traces_a_base_whose_layers_it_does_not_find_at_its_own_depth(tiny, tmp_path, monkeypatch):
    made = trials.trial(tiny, tmp_path)
    config = transformers.AutoConfig.from_pretrained(tiny)
    expected = predict.predict(made, config)

    def unknown(_):
        raise LookupError("on purpose")

    for module in ("peftbench.planner.depth", "peftbench.planner.trace"):
        monkeypatch.setattr(f"{module}.decoder_layers", unknown)
    found = predict.predict(made, config)
    assert found.depths == (3,)
    assert (found.peak_bytes, found.flops_per_token) == (expected.peak_bytes, expected.flops_per_token)
