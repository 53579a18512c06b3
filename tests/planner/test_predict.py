"""The planner predicts what a real step is accounted for, and has no formula of its own."""

from __future__ import annotations

import dataclasses
import json
import shutil
import statistics
from pathlib import Path

import pandas
import pytest
import torch
import transformers

from peftbench.errors import Unsupported, UserError
from peftbench.methods import METHODS, lora, method_of
from peftbench.models import builtin
from peftbench.models.load import cast_trainable, load
from peftbench.models.precision import PRECISIONS, effective
from peftbench.planner import depth
from peftbench.planner import predict as planner
from peftbench.planner.predict import predict
from peftbench.planner.records import Pass, Unplannable, longest
from peftbench.records.resolve import resolve
from peftbench.training import loop
from tests.support import architectures, tiny_base, trials
from tests.support.sample import sample
from tools.validation import planner_accuracy
from tools.validation.planner_accuracy import compare

SHAPE = [Pass(4, 24)]
TWO = [Pass(2, 16), Pass(2, 24)]
"""Two passes of one step: gradients are there while the second one runs."""


def slow(*cell):
    return pytest.param(*cell, marks=pytest.mark.slow)


SAMPLE = [
    ("full", "fp32", TWO, {}),
    ("full", "bf16", SHAPE, {"training": {"gradient_checkpointing": True, "optimizer": "adamw_8bit"}}),
    slow("full", "bf16-true", SHAPE, {"options": {"layers": 1}}),
    slow("prompt_tuning", "int8", TWO, {}),
    ("prefix_tuning", "fp32", SHAPE, {"options": {"reparameterization": "mlp", "hidden_size": 32}}),
    ("adapter", "fp16", SHAPE, {"training": {"gradient_checkpointing": True}}),
    ("llama_adapter", "bf16", SHAPE, {}),
    ("lora", "fp32", TWO, {"training": {"optimizer": "adafactor", "clip_norm": None}}),
    slow("lora", "bf16", SHAPE, {"options": {"dora": True}}),
    ("lora", "int8", SHAPE, {"training": {"optimizer": "sgd", "gradient_checkpointing": True}}),
    ("qlora", "nf4", TWO, {"training": {"gradient_checkpointing": True}}),
    ("qlora", "fp4-fp32", SHAPE, {"options": {"double_quantization": False, "dora": True}}),
    slow("qlora", "nf4", [Pass(3, 20, padded=False)], {"options": {"compute_dtype": "fp16"}}),
    ("peft", "fp32", SHAPE, {"options": {"peft_type": "VERA"}}),
    ("full", "bf16", TWO, {"training": {"gradient_checkpointing": 2}}),
    ("lora", "int8", TWO, {"training": {"gradient_checkpointing": "selective"}}),
    slow("adapter", "fp16", TWO, {"training": {"gradient_checkpointing": "selective"}}),
    ("lora", "bf16", TWO, {"training": {"offload": "activations"}}),
    slow("full", "fp32", TWO, {"training": {"offload": "activations", "gradient_checkpointing": True}}),
    ("full", "bf16", TWO, {"training": {"offload": "optimizer"}}),
    slow("lora", "bf16", TWO, {"training": {"offload": "weights"}}),
    ("adapter", "bf16", TWO, {"training": {"offload": "all", "gradient_checkpointing": True}}),
    slow("full", "bf16-true", TWO, {"training": {"offload": "all", "optimizer": "adamw_8bit"}}),
    slow("full", "fp32", TWO, {"options": {"turns": "lisa"}, "training": {"offload": "optimizer"}}),
    ("prompt_tuning", "bf16", TWO, {"training": {"logits": "loss_bearing"}}),
    slow("full", "fp32", TWO, {"training": {"logits": "loss_bearing"}}),
    ("lora", "fp32", TWO, {"training": {"attention": "eager"}}),
    slow("prefix_tuning", "bf16", TWO, {"training": {"attention": "eager"}}),
    slow("llama_adapter", "fp32", TWO, {"training": {"attention": "eager", "gradient_checkpointing": True}}),
    ("full", "fp32", TWO, {"training": {"logits": "chunked"}}),
    slow("qlora", "nf4", TWO, {"training": {"logits": "chunked", "gradient_checkpointing": True}}),
]


@pytest.mark.parametrize(("method", "precision", "shapes", "changes"), sample(SAMPLE, 2))
def test_a_prediction_is_what_a_real_step_is_accounted_for_to_the_byte(method, precision, shapes, changes, tiny):
    found, loaded, book = compare(tiny, method, precision, shapes, **changes)
    assert dict(found.categories) == book.peak
    assert found.peak_bytes == book.peak_bytes == sum(book.peak.values())
    assert found.offloaded_bytes == book.offloaded_peak
    assert bool(book.offloaded_peak) == ("offload" in changes.get("training", {}))
    assert (found.base_parameters, found.base_weights_bytes) == (loaded.parameters, loaded.weights_bytes)


FAMILIES = [
    ("mixtral", "fp32"),
    ("mixtral", "nf4"),
    ("falcon", "nf4"),
    ("gpt2", "fp32"),
    slow("falcon", "int8"),
    slow("gemma3", "fp32"),
    slow("bloom", "fp32"),
]


@pytest.mark.parametrize(("family", "precision"), sample(FAMILIES, 2))
def test_other_families_are_predicted_to_the_byte_too(family, precision, tmp_path):
    folder = architectures.make(tmp_path / family, family)
    found, loaded, book = compare(folder, "lora", precision, SHAPE)
    assert dict(found.categories) == book.peak
    assert (found.base_parameters, found.base_weights_bytes) == (loaded.parameters, loaded.weights_bytes)


def keep_one_more_tensor(monkeypatch) -> None:
    """Let the training step save one activation more, of 1000 floats, until the end of the backward pass."""
    usual = loop.batch_loss

    def batch_loss(model, batch):
        factor = torch.ones(1000, requires_grad=True) * 2
        first = (factor * factor).sum()
        return usual(model, batch) + 0 * first

    monkeypatch.setattr(loop, "batch_loss", batch_loss)


@pytest.mark.parametrize("layers", sample([3, 9], 2))
def test_one_more_saved_activation_in_the_step_moves_the_prediction_by_its_bytes(layers, tiny, tmp_path, monkeypatch):
    folder = tiny_base.make(tmp_path / "base", num_hidden_layers=layers)
    made = trials.trial(folder, tmp_path)
    before = predict(made, folder, SHAPE)
    keep_one_more_tensor(monkeypatch)
    after = predict(made, folder, SHAPE)
    assert after.categories["activations"] - before.categories["activations"] == 4 * 1000
    assert compare(folder, "lora", "fp32", SHAPE)[2].peak == dict(after.categories)


DEEP = [
    slow("llama", 9, "lora", {}, {"optimizer": "adafactor", "gradient_checkpointing": True}, (3, 4)),
    ("llama", 9, "prefix_tuning", {}, {}, (3, 4)),
    slow("llama", 13, "lora", {}, {"gradient_checkpointing": 3}, (7, 10)),
    slow("llama", 9, "full", {}, {"gradient_checkpointing": "selective"}, (3, 4)),
    slow("llama", 9, "lora", {}, {"offload": "activations"}, (3, 4)),
    slow("llama", 9, "full", {}, {"offload": "all", "optimizer": "adafactor", "gradient_checkpointing": True}, (3, 4)),
    slow("llama", 9, "lora", {}, {"offload": "all", "gradient_checkpointing": True}, (3, 4)),
    slow("llama", 9, "lora", {}, {"offload": "weights"}, (3, 4)),
    slow("llama", 12, "llama_adapter", {}, {}, (5, 6)),
    slow("llama", 12, "llama_adapter", {"layers": 2}, {}, (5, 6)),
    slow("llama", 9, "full", {"layers": 8}, {"optimizer": "adamw_8bit"}, (4, 5)),
    slow("gemma3", 14, "adapter", {}, {}, (5, 8)),
    slow("llama", 9, "lora", {"rank_pattern": {"layers.3.mlp.down_proj": 7}}, {}, (9,)),
]


@pytest.mark.parametrize(("family", "layers", "method", "options", "training", "traced"), DEEP)
def test_two_depths_determine_a_deeper_model(family, layers, method, options, training, traced, tmp_path, monkeypatch):
    kinds = {"layer_types": (["sliding_attention", "sliding_attention", "full_attention"] * layers)[:layers]}
    config = architectures.CONFIGS[family](num_hidden_layers=layers, **(kinds if family == "gemma3" else {}))
    made = trials.trial(tmp_path, tmp_path, method, options=options, training=training)
    found = predict(made, config, TWO)
    assert (found.depths, found.depth) == (traced, layers)
    monkeypatch.setattr(planner, "depths", lambda *_: depth.Depths(layers, (layers,)))
    assert dataclasses.replace(predict(made, config, TWO), depths=traced) == found


@pytest.mark.parametrize(
    ("layers", "every", "traced"), [(9, True, (3, 4)), (9, 2, (5, 7)), (13, 3, (7, 10)), (5, 3, (5,))]
)
def test_traced_depths_have_as_many_layers_between_those_computed_again(layers, every, traced, tmp_path):
    config = architectures.CONFIGS["llama"](num_hidden_layers=layers)
    made = trials.trial(tmp_path, tmp_path, training={"gradient_checkpointing": every})
    assert depth.depths(made, config).traced == traced


EXPERTS = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 64,
    "num_hidden_layers": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_experts_per_tok": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 1,
}
QWEN = {"num_experts": 4, "shared_expert_intermediate_size": 64}
DEEPSEEK = {
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 16,
    "v_head_dim": 16,
}


@pytest.mark.parametrize(
    ("kind", "settings", "traced"),
    [
        ("Qwen2MoeConfig", QWEN | {"decoder_sparse_step": 2}, (4, 6)),
        slow("Qwen2MoeConfig", QWEN | {"mlp_only_layers": [0, 1, 2, 3, 4, 5]}, (9, 10)),
        slow("Qwen2MoeConfig", QWEN | {"mlp_only_layers": [1, 2, 5, 9, 10]}, (12,)),
        slow("DeepseekV3Config", DEEPSEEK | {"first_k_dense_replace": 3}, (6, 7)),
    ],
)
def test_layers_that_differ_without_a_list_in_the_config_are_distinguished(
    kind, settings, traced, tmp_path, monkeypatch
):
    config = getattr(transformers, kind)(**EXPERTS | settings)
    made = trials.trial(tmp_path, tmp_path)
    found = predict(made, config, SHAPE)
    assert found.depths == traced
    monkeypatch.setattr(planner, "depths", lambda *_: depth.Depths(12, (12,)))
    assert dataclasses.replace(predict(made, config, SHAPE), depths=traced) == found


@pytest.mark.parametrize(("kinds", "traced"), [("fssssss", (4, 5)), ("fsssfss", (7,))])
def test_lowest_layers_may_precede_a_pattern_but_one_that_does_not_repeat_is_traced_whole(kinds, traced, tmp_path):
    words = {"f": "full_attention", "s": "sliding_attention"}
    config = architectures.CONFIGS["gemma3"](num_hidden_layers=7, layer_types=[words[kind] for kind in kinds])
    assert depth.depths(trials.trial(tmp_path, tmp_path), config).traced == traced


@pytest.mark.parametrize("method", ["full", "llama_adapter"])
def test_more_layers_than_a_base_model_has_are_refused_with_its_own_number(method, tmp_path):
    config = architectures.CONFIGS["llama"](num_hidden_layers=12)
    with pytest.raises(Unsupported, match="layers=13, but the base has only 12"):
        predict(trials.trial(tmp_path, tmp_path, method, options={"layers": 13}), config, SHAPE)


def test_of_a_fused_projection_only_the_trained_part_is_counted(tmp_path):
    config = architectures.CONFIGS["gpt2"]()
    found = predict(trials.trial(tmp_path, tmp_path, options={"target_modules": ["c_attn.q", "c_attn.v"]}), config)
    assert found.trainable_parameters == 3 * 2 * 4 * (64 + 64)  # layers, parts, rank, widths


@pytest.mark.parametrize("name", sample([name for name, method in METHODS.items() if method.trains], 2))
def test_what_trains_and_what_is_saved_are_counted_as_the_method_does(name, tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, name, METHODS[name].default_precision)
    found = predict(made, tiny, SHAPE)
    precision = effective(made.precision, made.options)
    base = load(tiny, precision, METHODS[name].trains_base, True, device="cpu", trust_remote_code=False)
    tuned = resolve(method_of(name, made.options).attach)(base.model, made.rank, made.options)
    assert found.trainable_parameters == sum(p.numel() for p in cast_trainable(tuned, precision))
    resolve(METHODS[name].save)(tuned, tmp_path / "saved")
    size = 0
    for path in (tmp_path / "saved").glob("*.safetensors"):
        size += path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little")
    assert found.checkpoint_bytes == size


def test_a_start_that_changes_the_base_is_saved_as_twice_the_rank_but_for_magnitudes(tiny, tmp_path):
    options = {"initialization": "pissa", "dora": True}
    made = trials.trial(tiny, tmp_path, "lora", options=options)
    base = load(tiny, PRECISIONS["fp32"], False, True, device="cpu", trust_remote_code=False)
    lora.save(lora.attach(base.model, made.rank, made.options), tmp_path / "saved")
    path = tmp_path / "saved" / "adapter_model.safetensors"
    size = path.stat().st_size - 8 - int.from_bytes(path.read_bytes()[:8], "little")
    other = trials.trial(tiny, tmp_path, "lora", options=options | {"initialization": "lora_ga"})
    assert predict(other, tiny, SHAPE).checkpoint_bytes == size


@pytest.mark.slow
def test_the_quickstarts_checkpoints_have_the_predicted_size_but_for_the_header(tmp_path):
    rows = pandas.read_parquet(planner_accuracy.PATH.parent / "quickstart" / "trials").query("status == 'ok'")
    seen = 0
    for row in rows.drop_duplicates(["method", "rank", "precision"]).itertuples():
        if METHODS[row.method].trains:
            rank = None if pandas.isna(row.rank) else int(row.rank)
            options = json.loads(row.settings_json)["options"]
            made = trials.trial(Path("nano"), tmp_path, row.method, row.precision, rank=rank, options=options)
            found = predict(made, builtin.folder("nano"), SHAPE)
            assert found.trainable_parameters == row.trainable_parameters
            assert 0 < row.checkpoint_bytes - found.checkpoint_bytes < 20_000, row.cell
            assert found.base_weights_bytes == row.base_weights_bytes
            seen += 1
    assert seen >= 6


def test_operations_are_those_counted_by_hand(tiny, tmp_path):
    b, t, d, f, v, n, kv = 4, 24, 64, 128, 320, 3, 32
    shape, weights = [Pass(b, t, padded=False)], n * (2 * d * d + 2 * d * kv + 3 * d * f) + v * d
    attention = n * 2 * 2 * t * d  # q k and p v, per token
    full = predict(trials.trial(tiny, tmp_path, "full"), tiny, shape)
    # the backward pass of attention computes its scores anew
    assert full.flops_per_token == 6 * weights + attention * (1 + 2.5)
    prompt = predict(trials.trial(tiny, tmp_path, "llama_adapter", options={"layers": 3}), tiny, shape)
    assert prompt.flops_per_token < 0.8 * full.flops_per_token


def test_the_committed_comparisons_are_whole_and_within_the_gate():
    found = planner_accuracy.stored()
    wanted = [(s, *which) for s in planner_accuracy.SIZES for which in planner_accuracy.settings() for _ in range(2)]
    assert [(c.size, c.method, c.precision, c.checkpointing) for c in found] == wanted
    errors = [abs(cell.error) for cell in found]
    assert max(errors) < 0.05
    assert statistics.median(errors) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("size", list(planner_accuracy.SIZES))
def test_every_method_and_precision_is_within_the_gate(size, tmp_path):
    errors = [abs(cell.error) for cell in planner_accuracy.cells([size], tmp_path)]
    assert len(errors) > 150
    assert max(errors) < 0.05
    assert statistics.median(errors) < 0.02


def test_by_default_the_longest_step_that_the_settings_allow_is_predicted(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, training={"batch_size": 7, "micro_batch_size": 3, "sequence_length": 20})
    assert longest(made.training) == (Pass(3, 20), Pass(3, 20))
    assert longest(dataclasses.replace(made.training, batch_size=4)) == (Pass(1, 20), Pass(3, 20))
    assert predict(made, tiny).passes == longest(made.training)


def test_a_config_alone_is_enough(tiny, tmp_path):
    (tmp_path / "shape").mkdir()
    shutil.copy(tiny / "config.json", tmp_path / "shape")
    made = trials.trial(tiny, tmp_path)
    assert predict(made, tmp_path / "shape") == predict(made, tiny)


def test_what_a_base_model_does_not_support_is_refused_as_in_the_trial(tmp_path):
    config = architectures.CONFIGS["mixtral"]()
    with pytest.raises(
        Unsupported, match=r"precision int8: 9 weight matrices were not quantized.*LLM\.int8 does not support"
    ):
        predict(trials.trial(tmp_path, tmp_path, "lora", "int8"), config, SHAPE)
    llama = architectures.CONFIGS["llama"]()
    with pytest.raises(Unsupported, match="layers=4, but the base has only 3"):
        predict(trials.trial(tmp_path, tmp_path, "llama_adapter", options={"layers": 4}), llama, SHAPE)
    with pytest.raises(UserError, match="unknown module 'k_prj'"):
        predict(trials.trial(tmp_path, tmp_path, options={"target_modules": ["k_prj"]}), llama, SHAPE)


def test_a_step_that_reads_values_is_unplannable(tiny, tmp_path, monkeypatch):
    def needs_values(model, batch):
        raise RuntimeError("needs values\nand more")

    monkeypatch.setattr(loop, "batch_loss", needs_values)
    with pytest.raises(Unplannable, match=r"^RuntimeError: needs values$"):
        predict(trials.trial(tiny, tmp_path), tiny, SHAPE)


def test_a_tuner_that_reads_values_as_it_attaches_is_unplannable_not_unsupported(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, "peft", options={"peft_type": "SHIRA"})
    with pytest.raises(Unplannable, match="nonzero"):
        predict(made, tiny, SHAPE)


def test_nothing_is_left_behind(tiny, tmp_path):
    from transformers import masking_utils

    asked, state = masking_utils.is_tracing, torch.get_rng_state()
    predict(trials.trial(tiny, tmp_path), tiny, [Pass(2, 8, padded=False)])
    assert masking_utils.is_tracing is asked
    assert torch.equal(torch.get_rng_state(), state)
    assert type(torch.zeros(2)) is torch.Tensor


@pytest.mark.parametrize("kind", ["loss_bearing", "chunked"])
def test_without_data_every_token_of_a_row_but_its_first_is_taken_to_be_in_the_loss(kind, tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, "full", training={"logits": kind})
    peaks = [predict(made, tiny, [Pass(16, 24, bearing=count)]).peak_bytes for count in (None, 16 * 23, 16)]
    assert peaks[0] == peaks[1] > peaks[2]
