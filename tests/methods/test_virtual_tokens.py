"""Prefix tuning with and without its MLP, and the initializations of prompt tuning."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from peftbench.errors import UserError
from peftbench.methods import peft_checkpoint, prefix_tuning, prompt_tuning
from peftbench.models import load
from peftbench.models.precision import PRECISIONS
from peftbench.runner import trial
from tests.support import trials
from tests.support.method_cells import IDS, logits
from tests.support.sample import sample

D, KV, LAYERS = 64, 32, 3


def fresh(tiny, precision="fp32"):
    return load.load(tiny, PRECISIONS[precision], False, True, device="cpu", trust_remote_code=False).model.eval()


def ran(tiny, tmp_path, method, precision="fp32", **changes):
    """Run a trial and return its result; the adapter is saved in ``tmp_path / "kept"``."""
    made = trials.trial(tiny, tmp_path, method, precision, **changes)
    job = dataclasses.replace(trials.job(made, tmp_path), adapter_folder=str(tmp_path / "kept"))
    return trial.run(job, 0.0, lambda *_: None, lambda *_: None)


@pytest.mark.parametrize(("options", "h"), [({}, 512), ({"hidden_size": 24}, 24)])
def test_with_the_mlp_trained_and_saved_parameters_differ(options, h, tiny, tmp_path):
    row = ran(tiny, tmp_path, "prefix_tuning", options={"reparameterization": "mlp"} | options).row
    assert (row.status, row.message, row.stalled_tensors) == ("ok", None, None)
    prefix = LAYERS * 2 * KV
    assert row.trainable_parameters == 4 * KV + h * (KV + 1) + prefix * (h + 1)
    assert row.stored_parameters == 4 * prefix
    (stored,) = load_file(tmp_path / "kept" / "adapter_model.safetensors").values()
    assert tuple(stored.shape) == (4, prefix)


def test_without_the_mlp_trained_and_saved_parameters_are_equal(tiny, tmp_path):
    row = ran(tiny, tmp_path, "prefix_tuning").row
    assert row.trainable_parameters == row.stored_parameters == 4 * LAYERS * 2 * KV


def test_pissa_stores_twice_what_it_trains_and_full_the_whole_model(tiny, tmp_path):
    row = ran(tiny, tmp_path / "a", "lora", options={"initialization": "pissa"}).row
    assert row.stored_parameters == 2 * row.trainable_parameters
    row = ran(tiny, tmp_path / "b", "full").row
    assert row.stored_parameters == row.base_parameters


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
def test_the_stored_prefix_without_the_mlp_gives_the_same_logits(precision, tiny, tmp_path):
    torch.manual_seed(0)
    made = fresh(tiny, precision)
    before = logits(made, precision, IDS).clone()
    tuned = prefix_tuning.attach(made, 4, {"reparameterization": "mlp", "hidden_size": 16})
    load.cast_trainable(tuned, PRECISIONS[precision])
    with torch.no_grad():
        for p in tuned.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.3)
    expected = logits(tuned, precision, IDS)
    assert float((expected - before).abs().max()) > 0.1
    peft_checkpoint.save(tuned, tmp_path / "saved")
    again = peft_checkpoint.load(fresh(tiny, precision), tmp_path / "saved")
    assert not [n for n, _ in again.named_parameters() if "transform" in n]
    # autocast computes the MLP in bf16, what is stored is computed in fp32
    close = 1e-5 if precision == "fp32" else 0.2
    torch.testing.assert_close(logits(again, precision, IDS), expected, atol=close, rtol=1e-3)


def test_a_hidden_size_without_the_mlp_is_refused(tiny):
    with pytest.raises(UserError, match="hidden_size: given 8; allowed: only with reparameterization: mlp"):
        prefix_tuning.attach(fresh(tiny), 4, {"reparameterization": "none", "hidden_size": 8})


@pytest.mark.parametrize(("count", "text"), [(3, "red green blue"), (2, "red green blue"), (8, "red green blue")])
def test_a_text_is_cut_or_repeated_to_the_number_of_virtual_tokens(count, text, tiny):
    made = fresh(tiny)
    ids = made.peftbench_origin.tokenizer(text, add_special_tokens=False)["input_ids"]
    tuned = prompt_tuning.attach(made, count, {"initialization": "text", "text": text})
    table = made.get_input_embeddings().weight
    found = tuned.prompt_encoder["default"].embedding.weight
    assert found.requires_grad
    assert torch.equal(found, table[[ids[i % len(ids)] for i in range(count)]])


@pytest.mark.parametrize("precision", sample(["fp32", "nf4"], 2))
def test_a_trial_initialized_from_a_text_loads_no_tokenizer_by_name(precision, tiny, tmp_path):
    options = {"initialization": "text", "text": "the colour of the sky is"}
    row = ran(tiny, tmp_path, "prompt_tuning", precision, options=options).row
    assert (row.status, row.message, row.stored_parameters) == ("ok", None, 4 * D)
    assert row.key != ran(tiny, tmp_path, "prompt_tuning", precision, options=options | {"text": "red"}).row.key
    again = peft_checkpoint.load(fresh(tiny, precision), tmp_path / "kept")
    assert logits(again, precision, IDS).isfinite().all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"initialization": "text"}, "initialization: text and text: none; allowed: both"),
        ({"initialization": "random", "text": "a"}, "initialization: random and text: 'a'"),
        ({"initialization": "text", "text": ""}, "allowed: a text of at least one token"),
    ],
)
def test_a_text_requires_its_initialization_and_vice_versa(options, told, tiny):
    with pytest.raises(UserError, match=told):
        prompt_tuning.attach(fresh(tiny), 4, options)
