"""Weights that a pass of text does not use are neither adapted nor trained nor counted."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn

from peftbench.methods import METHODS
from peftbench.models import text_part, unreached
from peftbench.planner import fake, predict, trainable_count
from peftbench.records.resolve import resolve
from tests.support import architectures, tiny_base, trials
from tests.support.method_cells import loaded
from tests.support.sample import sample

SIZES = {"d_model": 64, "decoder_layers": 3, "decoder_attention_heads": 4, "decoder_ffn_dim": 128}
CROSS = ["model.decoder.layers.*.encoder_attn", "model.decoder.layers.*.encoder_attn_layer_norm"]


def config():
    """BART's decoder alone, which has layers of attention to an encoder."""
    ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    more = {"vocab_size": 320, "max_position_embeddings": 128, "init_std": 0.2, "dropout": 0.0}
    return transformers.BartConfig(**SIZES, **more, **ids, is_encoder_decoder=False, is_decoder=True)


@pytest.fixture(scope="module")
def bart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bart") / "base"
    tiny_base.tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config()).save_pretrained(folder)
    return folder


def test_weights_that_no_token_reaches_are_found_on_real_and_on_fake_tensors(bart, tmp_path):
    model = loaded(bart, "lora", "fp32").model
    assert text_part.left_out_names(model) == CROSS
    assert fake.without_weights(trials.trial(bart, tmp_path), config()).peftbench_unreached == model.peftbench_unreached
    assert {p.requires_grad for p in model.parameters()} == {False}


@pytest.mark.parametrize("precision", ["nf4", "int8"])
def test_a_quantized_weight_is_used_if_its_module_is_called(precision, bart):
    assert text_part.left_out_names(loaded(bart, "lora", precision).model) == CROSS


@pytest.mark.parametrize("family", architectures.CONFIGS)
def test_the_tested_families_use_all_their_weights(family):
    assert unreached.names(architectures.build(family)) == frozenset()


def test_an_expert_that_no_token_was_routed_to_counts_as_used():
    model = architectures.build("llama")
    for layer in model.model.layers:
        layer.mlp.experts = nn.ModuleList([nn.Linear(2, 2)])
        layer.mlp.aside = nn.Linear(2, 2)
    found = {name.partition("mlp.")[2] for name in unreached.names(model)}
    assert found == {"aside.weight", "aside.bias"}


def test_a_model_that_fails_or_computes_without_gradients_loses_nothing():
    model = architectures.build("llama")
    model.forward = torch.no_grad()(model.forward)
    assert unreached.names(model) == frozenset()
    model.forward = None
    assert unreached.names(model) == frozenset()


@pytest.mark.parametrize("name", sample(["lora", "qlora", "adapter", "full", "prompt_tuning"], 2))
def test_no_method_adapts_or_trains_them_and_the_planner_counts_as_the_row_does(name, bart, tmp_path):
    made = trials.trial(bart, tmp_path, name, METHODS[name].default_precision, training={"steps": 2})
    row = trials.run(made, tmp_path).row
    assert (row.status, row.message, row.stalled_tensors) == ("ok", None, None)
    assert row.left_out_modules == ", ".join(CROSS)
    assert row.trainable_parameters == trainable_count.trainable(made, config())
    assert row.trainable_parameters == predict.predict(made, config()).trainable_parameters
    if name in ("lora", "full"):
        assert row.adapted_share == 1.0
    tuned = resolve(METHODS[name].attach)(loaded(bart, name, made.precision).model, made.rank, made.options)
    assert not [n for n, p in tuned.named_parameters() if p.requires_grad and "encoder_attn" in n]


@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_a_module_that_is_called_without_a_gradient_is_not_used(precision, tiny, monkeypatch):
    """As the indexers of sparse attention, which only select tokens."""
    from transformers.models.llama.modeling_llama import LlamaMLP

    forward = LlamaMLP.forward

    def selects(self, x):
        with torch.no_grad():
            scale = 1 + 0 * self.up_proj(x).mean()
        return scale * self.down_proj(self.act_fn(self.gate_proj(x)))

    monkeypatch.setattr(LlamaMLP, "forward", selects)
    assert text_part.left_out_names(loaded(tiny, "lora", precision).model) == ["model.layers.*.mlp.up_proj"]
    monkeypatch.setattr(LlamaMLP, "forward", forward)
    assert text_part.left_out_names(loaded(tiny, "lora", precision).model) == []


@pytest.mark.parametrize("precision", ["fp32", "nf4"])
@pytest.mark.parametrize("family", ["mixtral", "falcon", "gpt2"])
def test_quantized_layers_and_fused_experts_are_used(family, precision, tmp_path):
    home = architectures.make(tmp_path / family, family)
    assert loaded(home, "lora", precision).model.peftbench_unreached == frozenset()


def test_weights_behind_a_backward_pass_of_the_models_own_count_as_used():
    """reformer's layers compute without a graph, and its own backward pass computes them again."""
    plain = {"is_decoder": True, "axial_pos_embds": False, "attn_layers": ["local", "local"], "num_hidden_layers": 2}
    sizes = {"hidden_size": 32, "feed_forward_size": 32, "num_attention_heads": 2, "attention_head_size": 16}
    config = transformers.ReformerConfig(**plain, **sizes, vocab_size=64, max_position_embeddings=64)
    assert unreached.names(transformers.AutoModelForCausalLM.from_config(config)) == {"lm_head.bias"}
