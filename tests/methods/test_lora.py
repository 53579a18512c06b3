"""LoRA's options: targets, ranks, scales, initializations, merging, and the published parameter counts."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from peftbench.errors import Unsupported, UserError
from peftbench.measure.clock import Clock
from peftbench.methods import METHODS, alpha_of, lora
from peftbench.models import load
from peftbench.models.load import trainable_parameters
from peftbench.models.precision import PRECISIONS
from peftbench.records.resolve import resolve
from peftbench.tasks import read
from peftbench.training import batches, loop, optimizers
from tests.support import trials
from tests.support.method_cells import IDS, logits
from tests.support.sample import sample


def tuned(tiny, tmp_path, precision="fp32", rank=4, steps=0, **options):
    """Return the tiny base model with LoRA attached, trained for some steps."""
    base = load.load(tiny, PRECISIONS[precision], False, True, device="cpu", trust_remote_code=False)
    made = trials.trial(tiny, tmp_path, "lora", precision, rank=rank, options=options)
    plan = batches.draw_batches({"colour": read.examples(made.tasks[0], "train")}, made.training, base.tokenizer, 0)
    base.model.peftbench_origin = dataclasses.replace(base.model.peftbench_origin, step_examples=plan)
    torch.manual_seed(0)
    attached = lora.attach(base.model, rank, made.options)
    parameters = load.cast_trainable(attached, PRECISIONS[precision])
    if steps:
        where = {"precision": PRECISIONS[precision], "device": "cpu", "pad_id": base.tokenizer.pad_token_id}
        after_step = resolve(METHODS["lora"].after_step)
        learner = loop.learner(attached, parameters, made.training, virtual_tokens=0, after_step=after_step, **where)
        loop.train(learner, plan[:steps], [], Clock(), lambda *_: None)
    return attached.eval()


def fresh(tiny, precision="fp32"):
    return load.load(tiny, PRECISIONS[precision], False, True, device="cpu", trust_remote_code=False).model.eval()


def layers(attached):
    found = attached.get_base_model().named_modules()
    return {name: module for name, module in found if hasattr(module, "lora_A")}


def count(attached):
    return sum(p.numel() for p in attached.parameters() if p.requires_grad)


def test_targets_are_all_linear_layers_only_attention_or_a_list(tiny, tmp_path):
    ends = {
        words: {name.rpartition(".")[2] for name in layers(tuned(tiny, tmp_path, target_modules=wanted))}
        for words, wanted in (("all", "all-linear"), ("attention", "attention"), ("list", ["q_proj", "v_proj"]))
    }
    attention = {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert ends["all"] == attention | {"gate_proj", "up_proj", "down_proj"}
    assert ends["attention"] == attention
    assert ends["list"] == {"q_proj", "v_proj"}


def test_attention_of_gpt2_excludes_the_feed_forward_projection_of_the_same_name():
    from transformers import GPT2Config, GPT2LMHeadModel

    base = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32, n_positions=16))
    options = {"alpha": 8.0, "dropout": 0.0, "target_modules": "attention"}
    assert set(layers(lora.attach(base, 2, options))) == {"transformer.h.0.attn.c_attn", "transformer.h.0.attn.c_proj"}


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"target_modules": ["q_proj", "vproj"]}, r"unknown module 'vproj'; did you mean 'v_proj'\? allowed: .*v_proj"),
        ({"rank_pattern": {"kproj": 2}}, "rank_pattern: unknown module 'kproj'; .*did you mean 'k_proj'"),
        ({"alpha_pattern": {"lm_head": 2.0}}, "alpha_pattern: unknown module 'lm_head'"),
        ({"rank_pattern": {"(": 2}}, r"rank_pattern: given \(; allowed: regular expressions"),
        ({"alpha_pattern": {r"(\w+\.?)+z": 2.0}}, "alpha_pattern: .* takes more than 1 s on one of [0-9]+ names"),
    ],
)
def test_a_name_that_matches_nothing_is_refused_naming_the_modules(options, told, tiny, tmp_path):
    with pytest.raises(UserError, match=told):
        tuned(tiny, tmp_path, **options)


def test_patterns_give_modules_ranks_and_scales_of_their_own(tiny, tmp_path):
    patterns = {"rank_pattern": {"q_proj": 2, r"layers\.0\.mlp\..*": 1}, "alpha_pattern": {"q_proj": 6.0}}
    found = layers(tuned(tiny, tmp_path, alpha=8.0, **patterns))
    ranks = {name: module.r["default"] for name, module in found.items()}
    assert {r for name, r in ranks.items() if name.endswith("q_proj")} == {2}
    assert {r for name, r in ranks.items() if "layers.0.mlp" in name} == {1}
    assert {r for name, r in ranks.items() if name.endswith("v_proj")} == {4}
    assert {m.scaling["default"] for n, m in found.items() if n.endswith("q_proj")} == {3.0}
    assert {m.scaling["default"] for n, m in found.items() if n.endswith("v_proj")} == {2.0}


def test_the_scale_is_alpha_over_rank_and_with_rslora_over_its_root(tiny, tmp_path):
    for rslora, scale in ((False, 2.0), (True, 8.0 / math.sqrt(4))):
        scales = {m.scaling["default"] for m in layers(tuned(tiny, tmp_path, alpha=8.0, rslora=rslora)).values()}
        assert scales == {scale}


@pytest.mark.parametrize(("alpha", "number"), [(None, 16.0), (16, 16.0), ("2r", 16.0), ("0.5r", 4.0), (".5r", 4.0)])
def test_alpha_is_a_number_or_a_multiple_of_the_rank(alpha, number):
    assert alpha_of(alpha, 8) == number


def test_dora_adds_one_magnitude_per_output_and_starts_equal_to_the_base(tiny, tmp_path):
    attached = tuned(tiny, tmp_path, dora=True)
    outputs = sum(m.out_features for m in layers(attached).values())
    assert count(attached) == count(tuned(tiny, tmp_path)) + outputs
    torch.testing.assert_close(logits(attached, "fp32", IDS), logits(fresh(tiny), "fp32", IDS), atol=2e-5, rtol=1e-4)


MERGE_ERROR = {"fp32": 2e-5, "fp16": 0.05, "bf16": 0.3, "bf16-true": 0.3, "int8": 0.6, "nf4": 2.0, "fp4": 2.0}
MERGE_ERROR |= {f"{name}-fp32": MERGE_ERROR[name] for name in ("int8", "nf4", "fp4")}
"""Largest change of a logit by merging, as documented in ``lora.attach``."""
START = [("gaussian", "fp32"), ("pissa", "fp32"), ("olora", "fp32"), ("eva", "fp32")]
START += [("pissa", "bf16"), ("eva", "nf4"), ("eva", "bf16")]


@pytest.mark.parametrize(("start", "precision"), sample(START, 2))
def test_an_initialization_that_promises_the_base_gives_its_logits(start, precision, tiny, tmp_path):
    attached = tuned(tiny, tmp_path, precision, initialization=start)
    expected = logits(fresh(tiny, precision), precision, IDS)
    found = logits(attached, precision, IDS)
    if start == "eva" and precision != "fp32":  # B is zero and the base model's weights are untouched
        assert torch.equal(found, expected)
    elif precision == "fp32":
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-2)
    else:  # what PiSSA leaves frozen is rounded to bf16: 0.026 to 0.028 on average, by CPU kernel
        assert (found - expected).abs().mean() < 0.05
        assert (found - expected).abs().max() < MERGE_ERROR[precision]


def test_pissa_starts_from_the_largest_singular_components_and_freezes_the_rest(tiny, tmp_path):
    found = layers(tuned(tiny, tmp_path, initialization="pissa"))
    for name, module in found.items():
        whole = fresh(tiny).get_submodule(name).weight
        update = module.scaling["default"] * module.lora_B["default"].weight @ module.lora_A["default"].weight
        u, s, v = torch.linalg.svd(whole)
        torch.testing.assert_close(update, u[:, :4] * s[:4] @ v[:4], atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(module.base_layer.weight, whole - update, atol=1e-5, rtol=1e-4)


def test_eva_redistributes_ranks_by_explained_variance_with_the_same_sum(tiny, tmp_path):
    found = layers(tuned(tiny, tmp_path, initialization="eva"))
    ranks = [module.r["default"] for module in found.values()]
    assert sum(ranks) == 4 * 21
    assert len(set(ranks)) > 1
    rows = [m.lora_A["default"].weight for m in found.values()]
    for a in rows:
        torch.testing.assert_close(a @ a.T, torch.eye(len(a)), atol=1e-3, rtol=0)


@pytest.mark.parametrize("precision", ["nf4", "fp4", "int8"])
def test_loftq_starts_closer_to_the_unquantized_weights(precision, tiny, tmp_path):
    from peft.utils.integrations import dequantize_module_weight

    attached = tuned(tiny, tmp_path, precision, rank=8, initialization="loftq")
    whole = fresh(tiny)
    for name, module in layers(attached).items():
        error = whole.get_submodule(name).weight - dequantize_module_weight(module.base_layer).float()
        s = torch.linalg.svdvals(error)
        update = module.scaling["default"] * module.lora_B["default"].weight @ module.lora_A["default"].weight
        # what is left of the best approximation of rank r are the other singular values
        assert float((error - update).norm()) == pytest.approx(float(s[8:].norm()), rel=1e-3)


@pytest.mark.parametrize(
    ("start", "precision", "told"),
    [
        ("pissa", "nf4", "would be quantized again"),
        ("olora", "int8", "would be quantized again"),
        ("loftq", "bf16", "this base is not quantized"),
    ],
)
def test_an_initialization_that_does_not_exist_on_a_base_is_refused(start, precision, told, tiny, tmp_path):
    with pytest.raises(Unsupported, match=told):
        tuned(tiny, tmp_path, precision, initialization=start)


def test_dora_on_int8_weights_is_refused_on_the_cpu(tiny, tmp_path):
    with pytest.raises(Unsupported, match="loses their scales on the CPU"):
        tuned(tiny, tmp_path, "int8", dora=True)


@pytest.mark.parametrize("start", ["pissa", "olora", "eva"])
def test_a_rank_beyond_the_widths_of_a_module_is_refused(start, tiny, tmp_path):
    with pytest.raises(Unsupported, match=f"initialization {start}"):
        tuned(tiny, tmp_path, rank=33, initialization=start)


def test_olora_on_gpt2_is_refused_where_peft_takes_its_weights_the_wrong_way_round():
    from transformers import GPT2Config, GPT2LMHeadModel

    base = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=32, n_positions=16))
    with pytest.raises(Unsupported, match="Conv1D"):
        lora.attach(base, 2, PAPER | {"target_modules": "attention", "initialization": "olora"})


@pytest.mark.parametrize("options", [{"dora": True}, {"initialization": "pissa"}, {"dropout": 0.1}], ids=str)
def test_fused_experts_take_plain_lora_only(options):
    from transformers import MixtralConfig

    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = meta(MixtralConfig(**small, num_key_value_heads=2, num_local_experts=2, vocab_size=32))
    with pytest.raises(Unsupported, match=r"fused experts \(model\.layers\.0\.mlp\.experts\..*attention, exclude them"):
        lora.attach(base, 2, PAPER | {"target_modules": "all-linear"} | options)
    attached = lora.attach(base, 2, PAPER | {"target_modules": "all-linear"})
    assert any(name.endswith("experts") for name in layers(attached))


def test_eva_takes_inputs_of_any_shape(tiny, tmp_path):
    from transformers import OPTConfig, OPTForCausalLM

    plan = tuned(tiny, tmp_path).get_base_model().peftbench_origin
    small = {"hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = OPTForCausalLM(OPTConfig(**small, vocab_size=320, word_embed_proj_dim=16, max_position_embeddings=64))
    base.peftbench_origin = plan
    attached = lora.attach(base, 2, PAPER | {"target_modules": "all-linear", "initialization": "eva"})
    assert sum(m.r["default"] for m in layers(attached).values()) == 6 * 2


def test_an_initialization_that_would_change_a_tied_embedding_is_refused(tiny, tmp_path):
    with pytest.raises(Unsupported, match="the embedding that is tied to lm_head"):
        tuned(tiny, tmp_path, target_modules=["q_proj", "lm_head"], initialization="pissa")


def test_eva_without_training_batches_is_refused(tiny):
    with pytest.raises(Unsupported, match="needs training batches"):
        lora.attach(fresh(tiny), 2, PAPER | {"target_modules": "all-linear", "initialization": "eva"})


SAVED = [
    {"initialization": "pissa"},
    {"initialization": "olora"},
    {"initialization": "eva"},
    {"dora": True},
    {"initialization": "pissa", "dora": True, "rslora": True},
    {"initialization": "pissa", "rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3.0}},
    {"rslora": True, "rank_pattern": {"q_proj": 2}},
    {"target_modules": "attention"},
    {"initialization": "lora_ga", "rslora": True},
]


@pytest.mark.parametrize("options", sample(SAVED, 2), ids=str)
def test_a_saved_variant_loaded_on_the_original_base_gives_the_same_logits(options, tiny, tmp_path):
    attached = tuned(tiny, tmp_path, steps=3, **options)
    lora.save(attached, tmp_path / "saved")
    expected, start = logits(attached, "fp32", IDS), logits(fresh(tiny), "fp32", IDS)
    assert float((expected - start).abs().max()) > 0.1
    from peftbench.methods import peft_checkpoint

    again = peft_checkpoint.load(fresh(tiny), tmp_path / "saved")
    torch.testing.assert_close(logits(again, "fp32", IDS), expected, atol=2e-4, rtol=1e-3)


def test_a_saved_pissa_of_a_bf16_base_differs_by_the_rounding_of_the_residual(tiny, tmp_path):
    from peftbench.methods import peft_checkpoint

    attached = tuned(tiny, tmp_path, "bf16", steps=3, initialization="pissa")
    lora.save(attached, tmp_path / "saved")
    again = peft_checkpoint.load(fresh(tiny, "bf16"), tmp_path / "saved")
    expected = logits(attached, "bf16", IDS).float()
    assert 0 < float((logits(again, "bf16", IDS).float() - expected).abs().max()) < 0.3 < float(expected.std())


@pytest.mark.parametrize(
    ("precision", "options"),
    sample(
        [
            ("nf4", {"dora": True}),
            ("nf4", {"initialization": "loftq"}),
            ("int8", {"initialization": "loftq"}),
            ("int8", {"initialization": "eva"}),
        ],
        2,
    ),
)
def test_a_saved_variant_of_a_quantized_base_gives_the_same_logits(precision, options, tiny, tmp_path):
    from peftbench.methods import peft_checkpoint

    attached = tuned(tiny, tmp_path, precision, steps=3, **options)
    lora.save(attached, tmp_path / "saved")
    again = peft_checkpoint.load(fresh(tiny, precision), tmp_path / "saved")
    expected = logits(attached, precision, IDS)
    torch.testing.assert_close(logits(again, precision, IDS), expected, atol=2e-2, rtol=1e-3)


@pytest.mark.parametrize("start", ["pissa", "eva"])
def test_a_trial_with_another_initialization_is_ok_and_not_corrupt(start, tiny, tmp_path):
    from peftbench.runner import trial

    made = trials.trial(tiny, tmp_path, "lora", options={"initialization": start})
    result = trial.run(trials.job(made, tmp_path), 0.0, lambda *_: None, lambda *_: None)
    assert (result.row.status, result.row.message) == ("ok", None)
    assert json.loads(result.row.settings_json)["options"]["initialization"] == start


@pytest.mark.filterwarnings("ignore:.*rounding errors")
@pytest.mark.parametrize("precision", sample(MERGE_ERROR, 2))
def test_merging_changes_logits_by_no_more_than_documented(precision, tiny, tmp_path):
    attached = tuned(tiny, tmp_path, precision, steps=4)
    before = logits(attached, precision, IDS).float()
    weights = {n: m.base_layer.weight.detach().clone() for n, m in layers(attached).items()}
    attached.merge_adapter()
    merged = float((logits(attached, precision, IDS).float() - before).abs().max())
    attached.unmerge_adapter()
    assert 0 < merged <= MERGE_ERROR[precision]
    step = {"fp32": 1e-6, "fp16": 2**-10, "bf16": 2**-7, "bf16-true": 2**-7}.get(precision)
    if step:
        for name, module in layers(attached).items():
            torch.testing.assert_close(module.base_layer.weight, weights[name], atol=step, rtol=step)


PAPER = {"alpha": 8.0, "dropout": 0.0}


def meta(config):
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def test_llama_7b_with_rank_8_on_q_and_v_trains_the_published_4_194_304():
    from transformers import LlamaConfig

    attached = lora.attach(meta(LlamaConfig()), 8, PAPER | {"target_modules": ["q_proj", "v_proj"]})
    assert count(attached) == 32 * 2 * 8 * (4096 + 4096) == 4_194_304


def test_gpt2_medium_with_rank_4_on_q_and_v_trains_393_216_where_the_paper_prints_0_35_million():
    from transformers import GPT2Config

    config = GPT2Config(n_layer=24, n_embd=1024, n_head=16)
    closed_form = 24 * 2 * 4 * (1024 + 1024)
    assert closed_form == 393_216  # Hu et al. 2021, table 3, prints 0.35 M: not what the formula gives
    # on parts, as on projections of their own: two A and two B a layer; that k's part of the update is zero, below
    parts = lora.attach(meta(config), 4, PAPER | {"target_modules": ["c_attn.q", "c_attn.v"]})
    assert trainable_parameters(parts) == closed_form
    assert count(parts) == 24 * 8 * (1024 + 3 * 1024)  # stored: B holds zeros
    # peft adapts the fused projection of q, k and v as one matrix (3 x 1024, 1024): the same number by chance,
    # 24 x 4 x (1024 + 3072), for another model: one A for all three, and k is adapted too
    attached = lora.attach(meta(config), 4, PAPER | {"target_modules": ["c_attn"]})
    assert count(attached) == 24 * 4 * (1024 + 3 * 1024) == closed_form
    assert {tuple(m.lora_B["default"].weight.shape) for m in layers(attached).values()} == {(3 * 1024, 4)}


def gpt2(tmp_path, width=32):
    """A tiny GPT-2 on disk, with the tests' tokenizer."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from tests.support import tiny_base

    torch.manual_seed(0)
    config = GPT2Config(n_layer=1, n_embd=width, n_head=2, vocab_size=320, n_positions=64, initializer_range=0.2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    tiny_base.tokenizer().save_pretrained(tmp_path / "gpt2")
    return tmp_path / "gpt2"


def parts_of_update(attached):
    (module,) = layers(attached).values()
    update = module.get_delta_weight("default").T.detach()  # Conv1D: (in, out)
    return dict(zip("qkv", update.split(len(update) // 3), strict=True))


def test_the_fused_projection_of_gpt2_adapts_k_too(tmp_path):
    update = parts_of_update(tuned(gpt2(tmp_path), tmp_path, steps=2, target_modules=["c_attn"]))
    assert min(float(part.abs().max()) for part in update.values()) > 0


@pytest.mark.parametrize(
    ("precision", "optimizer"),
    [("fp32", name) for name in optimizers.OPTIMIZERS] + [(name, "adamw") for name in ("bf16", "bf16-true", "fp16")],
)
def test_lora_on_q_and_v_of_a_fused_projection_does_not_change_k(precision, optimizer, tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "TRAINING", dataclasses.replace(trials.TRAINING, optimizer=optimizer, weight_decay=0.1))
    # 8-bit state is for 4,096 values or more, in blocks of 256: of rank 32 they hold values of two parts
    width, r = (128, 32) if "8bit" in optimizer else (32, 4)
    base = gpt2(tmp_path, width)
    attached = tuned(base, tmp_path, precision, r, steps=10, target_modules=["c_attn.q", "c_attn.v"])
    update = parts_of_update(attached)
    assert not update["k"].any()
    assert min(float(update[part].abs().max()) for part in "qv") > 0
    (module,) = layers(attached).values()
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    assert not b[:width, r:].any()
    assert not b[2 * width :, :r].any()
    q, v = b[:width, :r] @ a[:r], b[2 * width :, r:] @ a[r:]
    scale = 2.0  # alpha / r, of each part
    torch.testing.assert_close(update["q"], scale * q, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(update["v"], scale * v, atol=1e-2, rtol=1e-2)


def test_parts_of_a_fused_projection_train_like_separate_projections(tmp_path):
    """A step of gradient descent on the parts gives the updates of two separate LoRAs with the same A."""
    attached = tuned(gpt2(tmp_path), tmp_path, target_modules=["c_attn.q", "c_attn.v"], rslora=True, alpha=8.0)
    (module,) = layers(attached).values()
    assert module.scaling["default"] == pytest.approx(8.0 / math.sqrt(4))
    a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
    inputs, outputs = [], []
    module.register_forward_pre_hook(lambda m, args: inputs.append(args[0]))
    module.register_forward_hook(lambda m, args, out: out.register_hook(outputs.append) and None)
    attached(input_ids=IDS).logits.square().mean().backward()
    gradient = outputs[0].flatten(0, 1).T @ inputs[0].flatten(0, 1)  # of the whole weight (out, in)
    expected = module.scaling["default"] * torch.cat([gradient[:32] @ a[:4].T, gradient[64:] @ a[4:].T])
    torch.testing.assert_close(torch.cat([b.grad[:32, :4], b.grad[64:, 4:]]), expected, atol=1e-5, rtol=1e-4)


def test_a_trial_on_parts_is_ok_counts_trainable_parameters_and_saves_pefts_format(tmp_path):
    from peft import PeftModel

    from peftbench.runner import trial

    base = gpt2(tmp_path)
    made = trials.trial(base, tmp_path, "lora", rank=4, options={"target_modules": ["c_attn.q", "c_attn.v"]})
    job = dataclasses.replace(trials.job(made, tmp_path), adapter_folder=str(tmp_path / "kept"))
    row = trial.run(job, 0.0, lambda *_: None, lambda *_: None).row
    assert (row.status, row.message, row.stalled_tensors) == ("ok", None, None)
    assert row.trainable_parameters == 2 * 4 * (32 + 32)
    assert row.stored_parameters == 8 * (32 + 96)  # k's zeros are stored too
    loaded = PeftModel.from_pretrained(fresh(base), tmp_path / "kept")
    assert not parts_of_update(loaded)["k"].any()


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"target_modules": ["c_attn.q", "c_attn"]}, UserError, "allowed: c_attn whole or its parts"),
        (
            {"target_modules": ["c_attn.x"]},
            UserError,
            r"unknown module 'c_attn.x'; did you mean 'c_attn'. allowed: .*c_attn",
        ),
        ({"target_modules": ["c_attn.q"], "dora": True}, Unsupported, r"\(c_attn\) take plain LoRA only, no dora"),
        ({"target_modules": ["c_attn.q"], "initialization": "pissa"}, Unsupported, "no initialization pissa"),
        ({"target_modules": ["c_attn.q"], "rank_pattern": {"c_attn": 2}}, Unsupported, "no rank_pattern"),
    ],
)
def test_parts_with_options_that_would_change_other_parts_are_refused(options, error, told, tmp_path):
    with pytest.raises(error, match=told):
        tuned(gpt2(tmp_path), tmp_path, **options)


def test_the_options_are_axes_of_a_suite():
    assert (
        METHODS["lora"].cell_name(8, "fp32", {"rank_pattern": {"q_proj": 4}}) == "lora r=8 rank_pattern=q_proj:4 fp32"
    )


def _llama4(tmp_path):
    import transformers

    from tests.support import architectures, tiny_base

    sizes = {"num_local_experts": 4, "head_dim": 16, "intermediate_size_mlp": 128, "attention_chunk_size": 64}
    tiny_base.tokenizer().save_pretrained(tmp_path / "llama4")
    torch.manual_seed(0)
    config = architectures._config("Llama4TextConfig", **sizes)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "llama4")
    return tmp_path / "llama4"


def test_a_router_that_returns_more_than_a_product_is_skipped(tmp_path):
    attached = tuned(_llama4(tmp_path), tmp_path, steps=2)
    ends = {name.rpartition(".")[2] for name in layers(attached)}
    assert ends == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert logits(attached, "fp32", IDS).isfinite().all()
    with pytest.raises(Unsupported, match="router routes to experts"):
        tuned(tmp_path / "llama4", tmp_path, target_modules=["q_proj", "router"])
