"""Which modules LoRA adapts on bases with a tied head, and on Mamba layers, whose kernels read weights."""

from __future__ import annotations

import pytest
import torch
import transformers
from peft.tuners.lora import LoraLayer

from peftbench.errors import Unsupported
from peftbench.methods import METHODS
from peftbench.methods.lora_targets import targets
from tests.support import families, tiny_base, trials
from tests.support.method_cells import IDS, attached, loaded, logits
from tests.support.sample import sample

COMMON = {"vocab_size": 320, "hidden_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
MAMBA = {"num_heads": 8, "head_dim": 16, "n_groups": 1, "state_size": 16, "chunk_size": 16, "num_hidden_layers": 2}
ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128, "num_hidden_layers": 2}
HYBRID = {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 16}
BASES = {
    "mamba": {"state_size": 16, "num_hidden_layers": 2, "time_step_rank": 8},
    "mamba2": MAMBA,
    "falcon_h1": ATTENTION | HYBRID | {"head_dim": 16, "mamba_chunk_size": 16, "max_position_embeddings": 128},
}


def base(folder, kind):
    tiny_base.tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **COMMON, **BASES[kind])
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "adapted"),
    sample(
        [
            ("mamba", {"in_proj"}),
            ("mamba2", {"in_proj"}),
            ("falcon_h1", {"in_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}),
        ],
        3,
    ),
)
def test_all_linear_leaves_out_the_projections_whose_weights_a_mamba_kernel_reads(kind, adapted, tmp_path):
    folder = base(tmp_path / kind, kind)
    row = trials.run(trials.trial(folder, tmp_path), tmp_path).row
    assert (row.status, row.message, row.stalled_tensors) == ("ok", None, None)
    assert "mixer.out_proj" in row.unadapted_matrices or "mamba.out_proj" in row.unadapted_matrices
    assert 0 < row.adapted_share < 1
    tuned = attached(folder, "lora", "fp32", tmp_path / "again")[1].model
    assert {n.rpartition(".")[2] for n, m in tuned.named_modules() if isinstance(m, LoraLayer)} == adapted


def test_such_a_projection_as_target_is_refused_with_the_reason_and_attention_where_there_is_none(tmp_path):
    model = loaded(base(tmp_path / "mamba2", "mamba2"), "lora", "fp32").model
    with pytest.raises(Unsupported, match="out_proj belongs to a layer that reads its weight without calling it"):
        targets(model, ["in_proj", "out_proj"])
    with pytest.raises(Unsupported, match=r"no attention projections; linear layers: in_proj, lm_head, out_proj"):
        targets(model, "attention")


@pytest.mark.parametrize("names", [["lm_head"], ["q_proj", "lm_head"]])
def test_lora_on_a_tied_head_is_scored_and_loaded_and_not_merged(names, tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, options={"target_modules": names}, inference=True)
    result = trials.run(made, tmp_path, measures_inference=True)
    row = result.row
    assert (row.status, row.message) == ("ok", None)
    assert "tied to another module's, which merging would change too" in row.inference_json
    assert row.largest_merge_logit_difference is None
    assert row.load_adapter_seconds > 0


def test_a_loaded_lora_on_a_tied_head_gives_the_same_logits_after_weights_are_tied_again(tiny, tmp_path):
    method = METHODS["lora"]
    _, learner, _ = attached(tiny, "lora", "fp32", tmp_path, options={"target_modules": ["lm_head"]})
    with torch.no_grad():
        for parameter in learner.parameters:
            parameter.add_(0.1)
    expected = logits(learner.model, "fp32", IDS)
    from peftbench.records.resolve import resolve

    resolve(method.save)(learner.model, tmp_path / "saved")
    again = resolve(method.load)(loaded(tiny, "lora", "fp32").model, tmp_path / "saved")
    for model in (learner.model, again):
        model.tie_weights()  # as lm-eval does
        assert torch.equal(logits(model, "fp32", IDS), expected)


def test_an_embedding_as_target_is_refused_with_what_adapts_it(tiny, tmp_path):
    row = trials.run(trials.trial(tiny, tmp_path, options={"target_modules": ["embed_tokens"]}), tmp_path).row
    assert (row.status, row.phase) == ("unsupported", "attach")
    assert "embed_tokens is an embedding, and lora adapts linear layers; the method peft with" in row.message


def test_a_failure_of_the_harness_is_a_failure_of_evaluation(tiny, tmp_path, monkeypatch):
    from peftbench.evaluation import scoring

    def fail(*_, **__):
        raise KeyError("on purpose")

    monkeypatch.setattr(scoring, "Harness", fail)
    row = trials.run(trials.trial(tiny, tmp_path), tmp_path).row
    assert (row.status, row.phase) == ("error", "evaluate")


def test_a_linear_layer_with_a_forward_pass_of_its_own_is_left_out_and_refused_by_name(tmp_path):
    families.make(tmp_path / "base", "deepseek_v4")
    row = trials.run(trials.trial(tmp_path / "base", tmp_path), tmp_path).row
    assert (row.status, row.stalled_tensors) == ("ok", None), row.message
    assert "model.layers.*.self_attn.o_a_proj" in row.unadapted_matrices
    named = trials.trial(tmp_path / "base", tmp_path, options={"target_modules": ["o_a_proj"]})
    row = trials.run(named, tmp_path).row
    assert (row.status, row.phase) == ("unsupported", "attach")
    assert "o_a_proj has a forward pass of its own, which is no product with its weight" in row.message
