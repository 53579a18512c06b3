"""QLoRA: bits per weight, compute dtypes, dtype of the unquantized parts, preparation for k-bit training."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from peftbench.methods import METHODS
from peftbench.models import load
from peftbench.models.precision import PRECISIONS, effective
from peftbench.runner import trial
from peftbench.training import batches, loop, optimizers
from tests.support import trials
from tests.support.method_cells import IDS, attached, logits
from tests.support.sample import sample


@pytest.mark.parametrize(("double", "bits"), [(True, 4 + 8 / 64 + 32 / (64 * 256)), (False, 4 + 32 / 64)])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bits_per_weight_are_the_papers_plus_code_tables(kind, double, bits):
    import bitsandbytes

    layer = bitsandbytes.nn.Linear4bit(1024, 512, bias=False, compress_statistics=double, quant_type=kind)
    layer.load_state_dict({"weight": torch.randn(512, 1024)})
    layer.to("cpu")
    weights = 1024 * 512
    # 16 values of the code; with double quantization 256 of the scales' code, and their mean
    tables = 4 * 16 + (4 * 256 + 4 if double else 0)
    assert load.weights_bytes(layer) - tables == weights * bits / 8
    assert round(bits, 3) == (4.127 if double else 4.5)  # Dettmers et al. 2023, section 3: 0.127 and 0.5 per parameter


@pytest.mark.parametrize(
    ("compute", "wanted", "dtype"), [("bf16", "bfloat16", None), ("fp16", "float16", None), ("fp32", None, "float32")]
)
def test_the_compute_dtype_is_that_of_autocast_and_of_every_4_bit_layer(compute, wanted, dtype, tiny):
    precision = effective("nf4", {"compute_dtype": compute})
    assert precision.autocast == wanted
    assert precision.gradient_scaling is (compute == "fp16")
    made = load.load(tiny, precision, False, True, device="cpu", trust_remote_code=False).model
    layers = [m for m in made.modules() if hasattr(m, "compute_dtype")]
    assert len(layers) == 21
    assert {m.compute_dtype for m in layers} == {getattr(torch, wanted or dtype)}


def test_without_the_option_a_precision_equals_its_record():
    assert all(effective(name, {}) is record for name, record in PRECISIONS.items())


def qlora(tiny, tmp_path, precision="nf4", **changes):
    made = trials.trial(tiny, tmp_path, "qlora", precision, **changes)
    kept = dataclasses.replace(trials.job(made, tmp_path), adapter_folder=str(tmp_path / "kept"))
    return trial.run(kept, 0.0, lambda *_: None, lambda *_: None)


@pytest.mark.parametrize("compute", sample(["fp16", "fp32"], 2))
def test_a_trial_computes_in_another_dtype_and_its_card_states_it(compute, tiny, tmp_path):
    usual = qlora(tiny, tmp_path / "a", options={})
    other = qlora(tiny, tmp_path / "b", options={"compute_dtype": compute})
    assert (other.row.status, other.row.message) == ("ok", None)
    assert other.row.key != usual.row.key
    first = [step.loss for step in usual.steps[:1] + other.steps[:1]]
    assert first[0] != first[1]
    assert first[0] == pytest.approx(first[1], abs=0.2)
    told = (tmp_path / "b" / "kept" / "README.md").read_text()
    assert f"bnb_4bit_compute_dtype=torch.{ {'fp16': 'float16', 'fp32': 'float32'}[compute] }" in told


@pytest.mark.parametrize("method", ["base", "prompt_tuning", "adapter", "lora", "qlora"])
def test_the_unquantized_parts_have_the_precisions_dtype_for_every_method(method, tiny):
    where = {"device": "cpu", "trust_remote_code": False}
    for precision in ("nf4", "nf4-fp32"):
        assert precision in METHODS[method].precisions
        record = PRECISIONS[precision]
        made = load.load(tiny, record, METHODS[method].trains_base, True, **where).model
        rest = {p.dtype for p in made.parameters() if getattr(p, "quant_state", None) is None}
        assert rest == {getattr(torch, record.weights)}


@pytest.mark.parametrize("precision", sample(["nf4-fp32", "int8-fp32", "fp4-fp32"], 3))
def test_a_base_with_fp32_for_the_rest_trains_and_is_larger(precision, tiny, tmp_path):
    method = "lora" if precision.startswith("int8") else "qlora"
    made = trials.trial(tiny, tmp_path, method, precision)
    row = trial.run(trials.job(made, tmp_path), 0.0, lambda *_: None, lambda *_: None).row
    assert (row.status, row.message) == ("ok", None)
    assert "float32" in row.loaded_dtypes
    small = dataclasses.replace(made, precision=precision.removesuffix("-fp32"))
    other = trial.run(trials.job(small, tmp_path), 0.0, lambda *_: None, lambda *_: None).row
    rest = 320 * 64 + 7 * 64
    assert row.base_weights_bytes - other.base_weights_bytes == 2 * rest
    assert json.loads(row.settings_json)["precision"] == precision


@pytest.mark.parametrize("precision", ["nf4", "nf4-fp32"])
def test_checkpointing_on_a_frozen_4_bit_base_gives_the_same_gradients(precision, tiny, tmp_path):
    found = []
    for checkpointing in (False, True):
        made = trials.trial(tiny, tmp_path, "qlora", precision)
        base, learner, plan = attached(tiny, "qlora", precision, tmp_path)
        training = dataclasses.replace(made.training, gradient_checkpointing=checkpointing)
        where = {k: getattr(learner, k) for k in ("precision", "device", "pad_id", "virtual_tokens")}
        again = loop.learner(learner.model, learner.parameters, training, **where)
        with torch.no_grad():  # B starts at zero, where A has no gradient
            for p in again.parameters:
                p.add_(0.01)
        again.model.train()
        batch = batches.collate(plan[0], base.tokenizer.pad_token_id)
        with load.autocast(PRECISIONS[precision], "cpu"):
            loop.batch_loss(again.model, batch).backward()
        found.append([p.grad.clone() for p in again.parameters])
    assert all(float(g.abs().max()) > 0 for g in found[0])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("optimizer", sample(["paged_adamw_8bit", "paged_adamw", "adamw_8bit", "adamw"], 2))
def test_qlora_trains_under_every_adamw(optimizer, tiny, tmp_path):
    row = qlora(tiny, tmp_path, training={"optimizer": optimizer}).row
    assert (row.status, row.message, row.optimizer, row.stalled_tensors) == ("ok", None, optimizer, None)


def test_8_bit_states_are_8_bit_from_4096_values_on_and_smaller_tensors_keep_32():
    large, small = (nn.Parameter(torch.randn(64, n)) for n in (64, 32))
    for name in ("adamw_8bit", "paged_adamw_8bit"):
        training = dataclasses.replace(trials.TRAINING, optimizer=name)
        made = optimizers.make([large, small], training)
        for p in (large, small):
            p.grad = torch.randn_like(p)
        made.step()
        assert made.state[large]["state1"].dtype == torch.uint8
        assert made.state[small]["state1"].dtype == torch.float32


def test_all_linear_layers_are_adapted_and_the_head_is_not(tiny, tmp_path):
    _, learner, _ = attached(tiny, "qlora", "nf4", tmp_path)
    adapted = {n.rpartition(".")[2] for n, m in learner.model.named_modules() if hasattr(m, "lora_A")}
    assert adapted == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert logits(learner.model, "nf4", IDS).isfinite().all()
