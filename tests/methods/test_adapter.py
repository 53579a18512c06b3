"""Bottleneck adapters: three kinds, on every family of models, against AdapterHub's numbers and their formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from peftbench.errors import Unsupported
from peftbench.measure.clock import Clock
from peftbench.methods import METHODS, adapter
from peftbench.models import load
from peftbench.models.precision import PRECISIONS
from peftbench.tasks import read
from peftbench.training import batches, loop
from tests.support import families, trials

KINDS = ("houlsby", "pfeiffer", "parallel")
D, LAYERS, R = 16, 2, 4
SAME = {"vocab_size": 48, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 1}
OWN = SAME | {"hidden_size": D, "intermediate_size": 24, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
OWN |= {"max_position_embeddings": 32}
GROUPED = OWN | {"num_key_value_heads": 1, "head_dim": 8}
N = SAME | {"n_embd": D, "n_layer": LAYERS, "n_head": 2, "n_positions": 32}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
GATED = ("self_attn.o_proj", "mlp.down_proj")
FC2 = ("self_attn.out_proj", "fc2")
FALCON = ("self_attention.dense", "mlp.dense_4h_to_h")
BLOOM = SAME | {"hidden_size": D, "n_layer": LAYERS, "n_head": 2}
MPT = SAME | {"d_model": D, "n_layers": LAYERS, "n_heads": 2, "max_seq_len": 32}
FAMILIES = {
    "llama": ("llama", GROUPED, GATED),
    "mistral": ("mistral", GROUPED, GATED),
    "mixtral": ("mixtral", GROUPED | EXPERTS, ("self_attn.o_proj", "mlp")),
    "qwen3": ("qwen3", GROUPED, GATED),
    "gemma3": ("gemma3_text", GROUPED, GATED),
    "phi": ("phi", OWN, ("self_attn.dense", "mlp.fc2")),
    "gpt2": ("gpt2", N, ("attn.c_proj", "mlp.c_proj")),
    "gpt_neox": ("gpt_neox", OWN, ("attention.dense", "mlp.dense_4h_to_h")),
    "gpt_neox in turn": ("gpt_neox", OWN | {"use_parallel_residual": False}, ("attention.dense", "mlp.dense_4h_to_h")),
    "gptj": ("gptj", N | {"rotary_dim": 4}, ("attn.out_proj", "mlp.fc_out")),
    "opt": ("opt", OWN | {"ffn_dim": 24, "word_embed_proj_dim": D}, FC2),
    "opt post-norm": ("opt", OWN | {"ffn_dim": 24, "word_embed_proj_dim": 8, "do_layer_norm_before": False}, FC2),
    "falcon": ("falcon", OWN, FALCON),
    "falcon in turn": ("falcon", OWN | {"parallel_attn": False}, FALCON),
    "falcon new": ("falcon", OWN | {"new_decoder_architecture": True, "num_kv_heads": 1}, FALCON),
    "bloom": ("bloom", BLOOM, FALCON),
    "glm4": ("glm4", GROUPED, GATED),
    "mpt": (
        "mpt",
        SAME | {"d_model": D, "n_layers": 2, "n_heads": 2, "max_seq_len": 32},
        ("attn.out_proj", "ffn.down_proj"),
    ),
    "gpt_oss": ("gpt_oss", GROUPED | EXPERTS, ("self_attn.o_proj", "mlp")),  # a tuple from its feed-forward
    "llama4": ("llama4_text", GROUPED | EXPERTS | {"intermediate_size_mlp": 24}, ("self_attn.o_proj", "feed_forward")),
}
"""Settings, and the modules of a layer that give the output of its two sublayers without the residual."""
EVERY_KIND = ("llama", "gpt2", "gpt_oss")
"""Families that are tested with each kind of adapter; the others by default with one of the three, in turn."""
CELLS = [
    pytest.param(
        family,
        kind,
        id=f"{family}-{kind}",
        marks=[pytest.mark.slow] * (family not in EVERY_KIND and kind != KINDS[place % len(KINDS)]),
    )
    for place, family in enumerate(FAMILIES)
    for kind in KINDS
]
IDS = torch.arange(20).reshape(2, 10) * 7 % 48
GOLDEN = load_file(Path(__file__).parents[1] / "golden_adapters" / "llama.safetensors")
RECORDED_ELSEWHERE = {"atol": 5e-5, "rtol": 0.0}
"""Tolerance for logits recorded on another machine, whose kernels sum in another order. Largest difference seen among
AVX-512, AVX2 and plain kernels: 5e-6, for logits of up to 3.4. A wrong adapter moves a logit by more than 1."""


def options(kind, **changes):
    return {"kind": kind, "activation": None, "scale": None} | changes


def base(family):
    torch.manual_seed(0)
    name, settings, _ = FAMILIES[family]
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **settings)).eval()


def attached(family, kind, random=True):
    """A base model with adapters, whose weights are random as if trained, or initial."""
    tuned = adapter.attach(base(family), R, options(kind))
    for module in bottlenecks(tuned) if random else ():
        for parameter in module.parameters():
            nn.init.normal_(parameter, std=0.3)
    return tuned


def bottlenecks(tuned):
    return [m for m in tuned.modules() if isinstance(m, adapter.Bottleneck)]


def blocks(tuned):
    """The path and list of the decoder layers, found by its length."""
    return next((n, m) for n, m in tuned.named_modules() if isinstance(m, nn.ModuleList) and len(m) == LAYERS)


@torch.no_grad()
def logits(tuned):
    return tuned(input_ids=IDS, use_cache=False).logits


@pytest.mark.parametrize(("family", "kind"), CELLS)
def test_the_start_is_the_base_and_the_number_of_parameters_the_closed_form(family, kind):
    tuned = attached(family, kind, random=False)
    assert torch.equal(logits(tuned), logits(base(family)))
    per_block = {"houlsby": 2, "pfeiffer": 1, "parallel": 1}[kind]
    assert sum(p.numel() for p in tuned.parameters() if p.requires_grad) == LAYERS * per_block * (2 * D * R + R + D)


@pytest.mark.parametrize(("family", "kind"), CELLS)
def test_two_steps_change_each_tensor_and_the_adapter_is_saved_loaded_and_switched_off(family, kind, tmp_path):
    tuned = attached(family, kind, random=False)
    before = {n: p.detach().clone() for n, p in tuned.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], 1e-2)
    tuned.train()
    for _ in range(2):
        tuned(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    tuned.eval()
    assert [n for n, p in tuned.named_parameters() if torch.equal(p, before[n]) is p.requires_grad] == []
    adapter.save(tuned, tmp_path)
    start, expected = logits(base(family)), logits(tuned)
    assert not torch.equal(expected, start)
    assert torch.equal(logits(adapter.load(base(family), tmp_path)), expected)
    with adapter.disabled(tuned):
        assert torch.equal(logits(tuned), start)
    assert torch.equal(logits(tuned), expected)


@pytest.mark.parametrize(("family", "kind"), CELLS)
def test_the_bottleneck_is_added_before_the_residual(family, kind):
    """With a zero up projection a bottleneck adds a constant, as do hooks on modules named by hand."""
    tuned, by_hand = attached(family, kind), base(family)
    path, found = blocks(by_hand)
    constants = []
    for module in bottlenecks(tuned):
        nn.init.zeros_(module.up.weight)
        constants.append((4.0 if kind == "parallel" else 1.0) * module.up.bias.detach())
    where = {"houlsby": FAMILIES[family][2], "pfeiffer": ("",), "parallel": FAMILIES[family][2][1:]}[kind]
    names = [".".join(filter(None, (path, str(i), part))) for i in range(len(found)) for part in where]

    def adding(constant):
        return lambda _, __, y: (y[0] + constant, *y[1:]) if isinstance(y, tuple) else y + constant

    for name, constant in zip(names, constants, strict=True):
        by_hand.get_submodule(name).register_forward_hook(adding(constant))
    torch.testing.assert_close(logits(tuned), logits(by_hand), atol=1e-5, rtol=1e-5)
    assert not torch.equal(logits(tuned), logits(base(family)))


@pytest.mark.parametrize(("family", "kind"), CELLS)
def test_a_bottlenecks_input_is_that_of_the_formula(family, kind):
    tuned = attached(family, kind)
    path, _ = blocks(tuned)
    attention, feed_forward = FAMILIES[family][2]
    first = "fc1" if feed_forward == "fc2" else feed_forward.partition(".")[0]
    reads = {"houlsby": (attention, feed_forward), "pfeiffer": ("",), "parallel": (first,)}[kind]
    seen, read = [], []

    def see(_, args, kwargs, output):
        out = output[0] if isinstance(output, tuple) else output
        seen.append(args[0] if kind == "parallel" else out)

    for module in bottlenecks(tuned):
        module.down.register_forward_pre_hook(lambda _, args: read.append(args[0]))
    for i in range(LAYERS):
        for part in reads:
            module = tuned.get_submodule(".".join(filter(None, (path, str(i), part))))
            module.register_forward_hook(see, with_kwargs=True, prepend=True)  # before the adapter's hook changes it
    logits(tuned)
    assert len(seen) == len(read) == LAYERS * len(reads)
    assert all(torch.equal(a, b) for a, b in zip(seen, read, strict=True))


@pytest.mark.parametrize(("family", "kind"), CELLS)
def test_checkpointing_and_the_cache_change_no_number(family, kind):
    tuned = attached(family, kind)
    told = {"use_cache": False, "input_ids": IDS[:1, :6], "do_sample": False, "max_new_tokens": 3, "pad_token_id": 0}
    assert torch.equal(tuned.generate(**told), tuned.generate(**told | {"use_cache": True}))
    gradients = []
    tuned.train()
    for checkpointing in (False, True):
        if checkpointing:
            tuned.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            tuned.enable_input_require_grads()
            assert tuned.is_gradient_checkpointing
        torch.manual_seed(1)  # dropout
        tuned(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        gradients.append([p.grad.clone() for p in tuned.parameters() if p.requires_grad])
        tuned.zero_grad(set_to_none=True)
        assert [m for m in bottlenecks(tuned) if m._held is not None] == [], "an input outlives its layer"
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def golden_base():
    tied = AutoConfig.for_model("llama", **GROUPED, tie_word_embeddings=True)
    found = AutoModelForCausalLM.from_config(tied).eval()
    taken = found.load_state_dict(part_of("base."), strict=False)
    assert (taken.missing_keys, taken.unexpected_keys) == (["lm_head.weight"], [])
    torch.testing.assert_close(logits(found), GOLDEN["logits.base"], **RECORDED_ELSEWHERE)
    return found


def part_of(prefix):
    return {name.removeprefix(prefix): t for name, t in GOLDEN.items() if name.startswith(prefix)}


def with_golden_weights(tuned, name):
    taken = tuned.load_state_dict(part_of(f"{name}."), strict=False)
    assert [*taken.unexpected_keys, *(key for key in taken.missing_keys if "bottleneck" in key)] == []
    return tuned


@pytest.mark.parametrize(
    ("name", "changes"), [("houlsby", {"activation": "silu"}), ("pfeiffer", {}), ("parallel_without_norm", {})]
)
def test_adapterhub_gives_the_same_numbers(name, changes):
    tuned = golden_base()
    if name == "parallel_without_norm":
        for block in tuned.model.layers:
            block.post_attention_layernorm = nn.Identity()
    tuned = adapter.attach(tuned, R, options(name.partition("_")[0], **changes))
    torch.testing.assert_close(logits(with_golden_weights(tuned, name)), GOLDEN[f"logits.{name}"], **RECORDED_ELSEWHERE)
    assert (GOLDEN[f"logits.{name}"] - GOLDEN["logits.base"]).abs().max() > 1


def test_adapterhubs_parallel_adapter_reads_before_the_norm_and_ours_after_it(monkeypatch):
    ours = with_golden_weights(adapter.attach(golden_base(), R, options("parallel")), "parallel")
    assert (logits(ours) - GOLDEN["logits.parallel"]).abs().max() > 1
    tuned = golden_base()
    sites = [adapter.Site(b, "bottleneck", b.mlp, b.post_attention_layernorm) for b in tuned.model.layers]
    monkeypatch.setattr(adapter, "_sites", lambda *_: sites)
    theirs = with_golden_weights(adapter.attach(tuned, R, options("parallel")), "parallel")
    torch.testing.assert_close(logits(theirs), GOLDEN["logits.parallel"], **RECORDED_ELSEWHERE)


@pytest.mark.parametrize(("kind", "activation"), [("houlsby", "gelu"), ("pfeiffer", "relu"), ("parallel", "relu")])
def test_a_bottleneck_is_its_formula_and_each_kind_has_its_own_defaults(kind, activation, tmp_path):
    tuned = attached("llama", kind)
    scale = 4.0 if kind == "parallel" else 1.0
    found, x = bottlenecks(tuned)[0], torch.randn(3, D)
    inner = getattr(torch.nn.functional, activation)(x @ found.down.weight.T + found.down.bias)
    torch.testing.assert_close(found(x), scale * (inner @ found.up.weight.T + found.up.bias))
    adapter.save(tuned, tmp_path)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (saved["kind"], saved["bottleneck_width"], saved["activation"], saved["scale"]) == (
        kind,
        R,
        activation,
        scale,
    )


def test_activation_and_scale_are_settings_that_are_saved(tmp_path):
    adapter.save(adapter.attach(base("llama"), R, options("pfeiffer", activation="silu", scale=2.0)), tmp_path)
    (found, *_) = bottlenecks(adapter.load(base("llama"), tmp_path))
    assert (type(found.activation), found.scale) == (nn.SiLU, 2.0)


def test_every_activation_that_a_suite_accepts_is_there():
    accepted = [name for kind in get_args(METHODS["adapter"].options["activation"].type) for name in get_args(kind)]
    for name in accepted:
        found = adapter.Bottleneck(D, R, name, 1.0, "cpu")
        inner = getattr(torch.nn.functional, name)(found.down(torch.ones(1, D)))
        torch.testing.assert_close(found.activation(found.down(torch.ones(1, D))), inner)
    assert "tanh" in accepted


def trained(folder, kind, precision, tmp_path, steps):
    """A base model at a precision with adapters, after some training steps, and the losses."""
    made, method = trials.trial(folder, tmp_path, "adapter", precision, options={"kind": kind}), METHODS["adapter"]
    loaded = load.load(folder, PRECISIONS[precision], method.trains_base, True, device="cpu", trust_remote_code=False)
    torch.manual_seed(0)
    tuned = adapter.attach(loaded.model, made.rank, made.options)
    where = {"device": "cpu", "pad_id": 0, "virtual_tokens": 0, "precision": PRECISIONS[precision]}
    learner = loop.learner(tuned, load.cast_trainable(tuned, PRECISIONS[precision]), made.training, **where)
    plan = batches.draw_batches({"colour": read.examples(made.tasks[0], "train")}, made.training, loaded.tokenizer, 0)
    trace = loop.train(learner, plan[:steps], [], Clock(), lambda *_: None)
    tuned.eval()
    return tuned, [row.loss for row in trace.steps]


def test_the_default_adapter_trains_as_in_the_first_version(tiny, tmp_path):
    """The committed results depend on these numbers; a change that moves them must be stated."""
    _, losses = trained(tiny, "houlsby", "fp32", tmp_path, 4)
    assert losses == pytest.approx([6.513851165771484, 6.256569862365723, 5.53024435043335, 5.75704288482666], rel=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["bf16", "bf16-true", "fp16", "int8", "nf4"])
def test_every_kind_trains_on_every_storage_of_the_base(kind, precision, tiny, tmp_path):
    def answers(tuned):
        with torch.no_grad(), load.autocast(PRECISIONS[precision], "cpu"):
            return tuned(input_ids=IDS, use_cache=False).logits

    fresh = load.load(tiny, PRECISIONS[precision], False, True, device="cpu", trust_remote_code=False).model
    start = answers(fresh)
    tuned, _ = trained(tiny, kind, precision, tmp_path, 2)
    trainable = getattr(torch, PRECISIONS[precision].trainable)
    assert {p.dtype for m in bottlenecks(tuned) for p in m.parameters()} == {trainable}
    expected = answers(tuned)
    assert not torch.equal(expected, start)
    with adapter.disabled(tuned):
        assert torch.equal(answers(tuned), start)
    adapter.save(tuned, tmp_path / "saved")
    assert torch.equal(answers(adapter.load(fresh, tmp_path / "saved")), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_without_autocast_bottleneck_and_base_keep_their_own_dtypes(kind):
    tuned, seen = attached("llama", kind), []
    ids = {id(p) for m in bottlenecks(tuned) for p in m.parameters()}
    for parameter in tuned.parameters():
        parameter.data = parameter.data if id(parameter) in ids else parameter.data.bfloat16()
    for module in bottlenecks(tuned):
        module.register_forward_hook(lambda _, args, out: seen.append((args[0].dtype, out.dtype)))
    assert logits(tuned).dtype == torch.bfloat16
    assert set(seen) == {(torch.bfloat16, torch.float32)}


@pytest.mark.parametrize(
    ("name", "settings", "told"),
    [
        ("mamba", {"state_size": 4}, "MambaBlock has mixer"),
        ("granitemoeshared", EXPERTS | {"shared_intermediate_size": 8}, "self_attn, block_sparse_moe, shared_mlp"),
        ("gpt2", {"add_cross_attention": True}, "attn, crossattention, mlp"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_other_structure_are_refused_naming_their_modules(name, settings, told, kind):
    with torch.device("meta"):
        found = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **OWN | settings))
    with pytest.raises(Unsupported, match=told):
        adapter.attach(found, R, options(kind))


def test_a_model_without_decoder_layers_is_refused():
    found = base("gpt2")
    found.transformer.h = nn.Identity()
    with pytest.raises(Unsupported, match=f"adapter: GPT2LMHeadModel has no list of its {LAYERS} decoder layers"):
        adapter.attach(found, R, options("houlsby"))


def test_a_projection_that_bloom_does_not_call_is_refused():
    exact = AutoConfig.for_model("bloom", **BLOOM, slow_but_exact=True, pretraining_tp=2)
    found = AutoModelForCausalLM.from_config(exact)
    with pytest.raises(Unsupported, match="BloomAttention adds the residual itself, and with slow_but_exact"):
        adapter.attach(found, R, options("houlsby"))


def test_a_module_that_adds_the_residual_without_a_known_projection_is_refused():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(2, 2)

        def forward(self, x, residual):
            return residual + self.last(x)

    with pytest.raises(Unsupported, match=r"Odd adds .* is not known among last"):
        adapter._before_residual(Odd(), None)


@pytest.mark.parametrize("kind", [list, tuple])
def test_the_bottleneck_changes_the_first_output_of_a_layer_that_returns_several(kind):
    made = adapter.Bottleneck(8, 2, "relu", 1.0, "cpu")
    torch.nn.init.ones_(made.up.weight)
    x = torch.randn(1, 3, 8)
    found = made.add(made, (), kind([x, "weights"]))
    assert type(found) is kind
    assert found[1] == "weights"
    assert torch.equal(found[0], x + made(x))


def test_openai_gpts_blocks_which_return_lists_are_adapted(tmp_path):
    families.make(tmp_path / "base", "openai-gpt")
    row = trials.run(trials.trial(tmp_path / "base", tmp_path, "adapter"), tmp_path).row
    assert (row.status, row.stalled_tensors) == ("ok", None), row.message
