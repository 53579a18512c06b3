"""A bidirectional model is refused, by its config and by its gradients; every causal family passes."""

from __future__ import annotations

import re

import pytest
import torch
import transformers

from peftbench.errors import Unsupported
from peftbench.methods import METHODS
from peftbench.models import causality, load
from peftbench.models.precision import PRECISIONS
from peftbench.planner import forecast
from peftbench.report.collect import collect
from peftbench.report.notes import methods
from peftbench.runner import trial
from peftbench.runner.checks import liveness
from tests.support import architectures, families, trials
from tests.support.method_cells import TRAINED, attached
from tests.support.results_factory import store
from tests.support.trials import run

SMALL = {"num_attention_heads": 4, "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128}
ENCODERS = [("BertConfig", {}), ("RobertaConfig", {}), ("ElectraConfig", {}), ("XLMConfig", {"n_words": 320})]


def encoder(kind, tmp_path=None, **changes):
    """An encoder with the language modelling head of transformers, saved if a folder is given."""
    torch.manual_seed(0)
    config = getattr(transformers, kind)(**{**SMALL, "vocab_size": 320, "max_position_embeddings": 130, **changes})
    made = transformers.AutoModelForCausalLM.from_config(config)
    if tmp_path is not None:
        made.save_pretrained(architectures.make(tmp_path / kind, "llama"))
    return made


@pytest.mark.parametrize("family", list(architectures.CONFIGS))
def test_every_causal_family_passes(family):
    made = architectures.build(family)
    causality.check_config(made.config)
    causality.check_config(made.config.to_dict())
    causality.check(made, PRECISIONS["fp32"], "cpu")


@pytest.mark.parametrize("family", ["llama", "mixtral"])
@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8", "nf4"])
def test_a_causal_family_passes_in_every_precision(family, precision, tmp_path):
    folder = architectures.make(tmp_path / "base", family)
    try:
        made = load.load(folder, PRECISIONS[precision], False, True, device="cpu", trust_remote_code=False).model
    except Unsupported:
        assert (family, precision) == ("mixtral", "int8")
        return
    causality.check(made, PRECISIONS[precision], "cpu")


@pytest.mark.parametrize(("kind", "changes"), ENCODERS)
def test_an_encoder_is_refused_by_its_config_and_by_its_gradients(kind, changes):
    made = encoder(kind, **changes)
    for config in (made.config, made.config.to_dict()):
        with pytest.raises(Unsupported, match=r"reads in both directions \(its config has no "):
            causality.check_config(config)
    with pytest.raises(Unsupported, match="a later token changes its logits at an earlier position"):
        causality.check(made, PRECISIONS["fp32"], "cpu")


@pytest.mark.parametrize("kind", ["gemma3", "xlnet"])
def test_an_encoder_with_a_zero_first_embedding_or_transformed_embeddings_is_refused(kind):
    if kind == "gemma3":
        turned = {"use_bidirectional_attention": True, "head_dim": 16, "num_key_value_heads": 2}
        made = encoder("Gemma3TextConfig", pad_token_id=0, **turned)
    else:
        config = transformers.XLNetConfig(vocab_size=320, d_model=64, n_layer=2, n_head=4, d_inner=128)
        made = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(Unsupported, match="a later token changes its logits at an earlier position"):
        causality.check(made, PRECISIONS["fp32"], "cpu")


def test_the_gradients_agree_with_changing_the_last_token():
    for made, reads_ahead in ((encoder("BertConfig"), True), (encoder("BertConfig", is_decoder=True), False)):
        made.eval()
        with torch.no_grad():  # each alone: some kernels round the rows of a batch differently
            first, other = (made(input_ids=torch.tensor([[5, 6, 7, last]])).logits[0] for last in (8, 9))
        assert torch.equal(first[:-1], other[:-1]) is not reads_ahead


def test_an_encoder_configured_as_a_decoder_passes():
    made = encoder("BertConfig", is_decoder=True)
    causality.check_config(made.config)
    causality.check(made, PRECISIONS["fp32"], "cpu")


def test_the_check_does_not_change_the_model():
    made = architectures.build("llama")
    state = torch.get_rng_state()
    causality.check(made, PRECISIONS["fp32"], "cpu")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in made.parameters())
    assert not made.get_input_embeddings()._forward_hooks


def test_a_model_without_a_causal_head_is_refused_by_its_config():
    for config in (transformers.T5Config(), transformers.T5Config().to_dict()):
        with pytest.raises(Unsupported, match="t5 is an encoder-decoder model"):
            causality.check_config(config)
    with pytest.raises(Unsupported, match="no causal language model of clip_text_model"):
        causality.check_config(transformers.CLIPTextConfig())
    causality.check_config(transformers.BartConfig(is_encoder_decoder=False, is_decoder=True))


def test_a_trial_on_an_encoder_is_unsupported_before_its_weights_are_loaded(tmp_path, monkeypatch):
    encoder("BertConfig", tmp_path)
    monkeypatch.setattr(trial, "load", None)
    row = run(trials.trial(tmp_path / "BertConfig", tmp_path), tmp_path).row
    assert (row.status, row.phase) == ("unsupported", "load")
    assert "bert reads in both directions" in row.message


@pytest.mark.parametrize("method", ["base", "lora"])
def test_a_trial_on_an_encoder_that_its_config_does_not_reveal_is_unsupported(method, tmp_path, monkeypatch):
    encoder("BertConfig", tmp_path)
    monkeypatch.setattr(causality, "check_config", lambda *_: None)
    row = run(trials.trial(tmp_path / "BertConfig", tmp_path, method), tmp_path).row
    assert (row.status, row.phase) == ("unsupported", "check")
    assert "BertLMHeadModel reads in both directions" in row.message


def test_a_base_that_runs_only_without_gradients_is_not_checked(tmp_path):
    folder = architectures.make(tmp_path / "falcon", "falcon")
    loaded = load.load(folder, PRECISIONS["int8"], False, True, device="cpu", trust_remote_code=False)
    causality.check(loaded.model, PRECISIONS["int8"], "cpu")
    assert causality.reads_ahead(loaded.model, PRECISIONS["int8"], "cpu") is None
    assert not loaded.model.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("name", TRAINED)
def test_no_method_of_peftbench_depends_on_later_tokens(name, tiny, tmp_path):
    precision = METHODS[name].default_precision
    _, learner, _ = attached(tiny, name, precision, tmp_path)
    with liveness.perturbed(learner.parameters):
        assert causality.reads_ahead(learner.model, PRECISIONS[precision], "cpu") == 0.0


LILY = {"peft_type": "LILY"}


def test_a_method_that_depends_on_later_tokens_is_reported_in_its_row_and_under_the_table(tiny, tmp_path):
    """LILY weights its adapters by a mean over all tokens, including later ones (peft 0.21, arXiv:2407.09946)."""
    made = trials.trial(tiny, tmp_path, "peft", rank=4, options=LILY)
    result = run(made, tmp_path)
    assert result.row.status == "ok", result.row.message
    assert result.row.later_token_influence > causality.NOISE
    results = collect(store(tmp_path / "r", result))
    (note,) = methods.not_causal(results)
    assert re.match(r"Not causal: peft LILY r=4.*\. Later tokens change .* \(by up to .* %", note)


def test_a_method_that_mixes_examples_only_in_training_cannot_be_packed(tiny, tmp_path):
    training = {"packing": True, "sequence_length": 64}
    row = run(trials.trial(tiny, tmp_path, "peft", rank=4, options=LILY, training=training), tmp_path).row
    assert (row.status, row.phase) == ("unsupported", "check")
    assert "mixes the examples of a row" in row.message


@pytest.mark.parametrize(
    ("rank", "options"),
    [
        (None, {"peft_type": "TRAINABLE_TOKENS", "token_indices": [9]}),
        (4, {"peft_type": "LORA", "target_modules": ["embed_tokens", "q_proj"]}),
    ],
)
def test_a_method_that_replaces_the_embedding_is_measured_too(rank, options, tiny, tmp_path):
    row = run(trials.trial(tiny, tmp_path, "peft", rank=rank, options=options), tmp_path).row
    assert (row.status, row.later_token_influence) == ("ok", 0.0), row.message


def test_perturbed_parameters_and_the_random_state_are_restored_bit_for_bit(tiny, tmp_path):
    _, learner, _ = attached(tiny, "lora", "fp32", tmp_path)
    before, state = [p.detach().clone() for p in learner.parameters], torch.get_rng_state()

    def fail():
        with liveness.perturbed(learner.parameters):
            assert not any(torch.equal(p, kept) for p, kept in zip(learner.parameters, before, strict=True))
            raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        fail()
    assert all(torch.equal(p, kept) for p, kept in zip(learner.parameters, before, strict=True))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_plan_on_an_encoder_states_why_it_has_no_figures(tmp_path):
    encoder("RobertaConfig", tmp_path)
    folder = tmp_path / "RobertaConfig"
    (found,) = forecast.forecasts([trials.trial(folder, tmp_path)], lambda _: folder, forecast.Question())
    assert found.found is None
    assert "roberta reads in both directions" in found.problem


@pytest.mark.parametrize("family", ["llava", "qwen2_vl", "idefics3", "vit"])
def test_a_family_without_a_causal_model_is_refused_from_its_config_file(family):
    with pytest.raises(Unsupported, match=f"transformers has no causal language model of {family}"):
        causality.check_config({"model_type": family})


def test_the_causal_families_are_read_from_transformers_without_importing_it():
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    known, causal = causality._families(causality._CAUSAL)
    assert causal == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert causal < known
    for config in ({"model_type": "llama"}, {"model_type": "of_tomorrow"}, {}):
        causality.check_config(config)
    causality.check_config({"model_type": "llava", "auto_map": {"AutoModelForCausalLM": "modeling.Own"}})


def test_xlnet_is_causal_with_its_own_key_only():
    sizes = {"vocab_size": 320, "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128}
    for config in (transformers.XLNetConfig(**sizes), transformers.XLNetConfig(**sizes, is_decoder=True).to_dict()):
        with pytest.raises(Unsupported, match=r"xlnet reads in both directions \(its config has no attn_type: uni\)"):
            causality.check_config(config)
    config = transformers.XLNetConfig(**sizes, attn_type="uni")
    causality.check_config(config)
    causality.check_config(config.to_dict())
    causality.check(transformers.AutoModelForCausalLM.from_config(config), PRECISIONS["fp32"], "cpu")


def test_a_model_that_refuses_gradients_outside_of_training_is_not_refused(tmp_path):
    families.make(tmp_path / "base", "reformer")
    made = load.load(tmp_path / "base", PRECISIONS["fp32"], False, True, device="cpu", trust_remote_code=False).model
    causality.check(made, PRECISIONS["fp32"], "cpu")
