"""Partial fine-tuning trains and saves only the selected weights, and refuses a selection of none."""

from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from peftbench.errors import Unsupported, UserError
from peftbench.methods import full
from peftbench.models import load
from peftbench.models.precision import PRECISIONS
from peftbench.runner import trial
from tests.support import families, trials
from tests.support.method_cells import IDS, logits
from tests.support.sample import sample
from tests.support.tiny_base import make

D, FEED, KV, V = 64, 128, 32, 320
BLOCK = 2 * D * D + 2 * D * KV + 3 * D * FEED + 2 * D
"""Number of parameters in a decoder layer of the tiny base model: attention, feed-forward, two norms."""
ATTENTION = 2 * D * D + 2 * D * KV


def base(folder, precision="fp32"):
    where = {"device": "cpu", "trust_remote_code": False}
    return load.load(folder, PRECISIONS[precision], True, True, **where).model.eval()


@pytest.fixture(scope="module")
def biased(tmp_path_factory):
    """A tiny base model with biases in attention and feed-forward."""
    return make(tmp_path_factory.mktemp("biased") / "biased", attention_bias=True, mlp_bias=True)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({}, V * D + 3 * BLOCK + D),
        ({"layers": 1}, BLOCK),
        ({"layers": 3}, 3 * BLOCK),
        ({"modules": "norms"}, 7 * D),
        ({"modules": ["norms"], "layers": 2}, 4 * D),
        ({"modules": ["self_attn"], "layers": 1}, ATTENTION),
        ({"modules": ["q_proj", "mlp.up_proj"]}, 3 * (D * D + D * FEED)),
        ({"modules": ["self_attn", "q_proj"]}, 3 * ATTENTION),
        ({"modules": ["lm_head"]}, V * D),
    ],
    ids=str,
)
def test_the_number_of_trainable_parameters_is_the_closed_form(options, wanted, tiny):
    tuned = full.attach(base(tiny), None, options)
    assert sum(p.numel() for p in tuned.parameters() if p.requires_grad) == wanted


def test_bitfit_trains_every_bias_and_nothing_else(biased):
    tuned = full.attach(base(biased), None, {"modules": "biases"})
    names = [n for n, p in tuned.named_parameters() if p.requires_grad]
    assert {n.rpartition(".")[2] for n in names} == {"bias"}
    per_block = (D + KV + KV + D) + (FEED + FEED + D)
    assert sum(p.numel() for p in tuned.parameters() if p.requires_grad) == 3 * per_block


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"modules": "biases"}, Unsupported, "has no biases, so BitFit has nothing to train"),
        ({"layers": 4}, Unsupported, "layers=4, but the base has only 3"),
        ({"modules": ["qproj"]}, UserError, r"unknown module 'qproj'; did you mean 'q_proj'\? allowed: .*norms"),
        ({"modules": ["embed_tokens"], "layers": 1}, Unsupported, "the 1 topmost layers have none of modules"),
    ],
    ids=str,
)
def test_a_selection_of_no_weights_is_refused(options, error, told, tiny):
    with pytest.raises(error, match=told):
        full.attach(base(tiny), None, options)


@pytest.mark.parametrize("precision", sample(["fp32", "bf16", "bf16-true"], 3))
def test_a_partial_trial_saves_only_trained_weights_and_loads_to_the_same_logits(precision, tiny, tmp_path):
    import dataclasses

    options = {"layers": 1, "modules": ["self_attn", "norms"]}
    made = trials.trial(tiny, tmp_path, "full", precision, options=options)
    job = dataclasses.replace(trials.job(made, tmp_path), adapter_folder=str(tmp_path / "kept"))
    row = trial.run(job, 0.0, lambda *_: None, lambda *_: None).row
    assert (row.status, row.message) == ("ok", None)
    assert row.trainable_parameters == ATTENTION + 2 * D
    assert row.peak_optimizer_bytes == pytest.approx(
        2 * row.trainable_parameters * getattr(torch, PRECISIONS[precision].trainable).itemsize, rel=0.01
    )
    state = load_file(tmp_path / "kept" / "partial_model.safetensors")
    assert sum(t.numel() for t in state.values()) == row.trainable_parameters
    assert {str(t.dtype) for t in state.values()} == {f"torch.{PRECISIONS[precision].trainable}"}
    start = base(tiny, precision)
    frozen = {n: load.checksum(p) for n, p in start.named_parameters() if n not in state}
    before = logits(start, precision, IDS).clone()
    again = full.load(start, tmp_path / "kept")
    assert {n: load.checksum(p) for n, p in again.named_parameters() if n not in state} == frozen
    assert not torch.equal(logits(again, precision, IDS), before)
    assert all(torch.equal(dict(again.named_parameters())[n], t) for n, t in state.items())
    assert not list((tmp_path / "kept").glob("tokenizer*"))
    told = (tmp_path / "kept" / "README.md").read_text()
    assert "from peftbench.methods.full import load" in told
    assert "cannot combine a part of the base model's weights with the rest" in told


@pytest.mark.parametrize("options", [{"modules": "norms"}, {"layers": 2}], ids=str)
def test_partial_tuning_changes_the_output_with_checkpointing_too(options, tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, "full", options=options, training={"gradient_checkpointing": True})
    row = trial.run(trials.job(made, tmp_path), 0.0, lambda *_: None, lambda *_: None).row
    assert (row.status, row.message, row.stalled_tensors) == ("ok", None, None)


def test_the_padding_tokens_embedding_is_the_stored_one_though_the_familys_code_sets_it_to_zero(tmp_path):
    """youtu's code does so on every loading; with a tied head the row is trained."""
    families.make(tmp_path / "base", "youtu")
    with safe_open(tmp_path / "base" / "model.safetensors", framework="pt") as file:
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    state["model.embed_tokens.weight"][2] = 0.5
    save_file(state, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    model = base(tmp_path / "base")
    assert model.config.pad_token_id == 2
    assert bool((model.get_input_embeddings().weight[2] == 0.5).all())
    with torch.no_grad():
        model.get_input_embeddings().weight[2] = 0.25
    full.save(model, tmp_path / "saved")
    again = full.load(model, tmp_path / "saved")
    assert torch.equal(logits(again, "fp32", IDS), logits(model, "fp32", IDS))
