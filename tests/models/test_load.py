"""A base model is loaded and stored as the precision defines, or refused by name."""

from __future__ import annotations

import shutil

import bitsandbytes as bnb
import pytest
import torch

from peftbench.errors import Unsupported, UserError
from peftbench.methods import METHODS, adapter
from peftbench.methods.support import why_unsupported
from peftbench.models import load, quantization
from peftbench.models.precision import PRECISIONS, effective
from peftbench.records import failures
from peftbench.runner import trial
from tests.support import architectures, tiny_base, trials
from tests.support.method_cells import IDS, loaded, logits
from tests.support.sample import sample

LINEAR = 3 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128)
"""Weights in the tiny base's linear layers; the rest is 320 x 64 embeddings (tied) and 7 norms of 64."""
REST = 320 * 64 + 7 * 64


@pytest.mark.parametrize(
    ("method", "precision", "dtypes", "bytes_"),
    [
        ("lora", "fp32", {"float32"}, 4 * (LINEAR + REST)),
        ("lora", "bf16", {"bfloat16"}, 2 * (LINEAR + REST)),
        ("lora", "fp16", {"float16"}, 2 * (LINEAR + REST)),
        ("full", "bf16", {"float32"}, 4 * (LINEAR + REST)),
        ("full", "bf16-true", {"bfloat16"}, 2 * (LINEAR + REST)),
        ("lora", "int8", {"int8", "bfloat16"}, LINEAR + 2 * REST),
        ("qlora", "nf4", {"uint8", "bfloat16"}, LINEAR // 2 + 2 * REST),
        ("qlora", "fp4", {"uint8", "bfloat16"}, LINEAR // 2 + 2 * REST),
    ],
)
def test_a_base_is_stored_as_the_methods_precision_defines(method, precision, dtypes, bytes_, tiny):
    found = loaded(tiny, method, precision)
    assert {part.split()[0] for part in found.dtypes.split(", ")} == dtypes
    assert found.parameters == LINEAR + REST
    quantization_state = found.weights_bytes - bytes_
    if PRECISIONS[precision].quantization:
        assert 0 < quantization_state < 0.5 * LINEAR  # scales and, per layer, code tables: much, on so small a base
    else:
        assert quantization_state == 0


@pytest.mark.parametrize("double", [True, False])
def test_double_quantization_quantizes_the_scales_of_every_layer_or_of_none(double, tiny):
    made = load.load(tiny, PRECISIONS["nf4"], False, double, device="cpu", trust_remote_code=False)
    scales = [p.quant_state.absmax.dtype for p in made.model.parameters() if hasattr(p, "quant_state")]
    assert set(scales) == {torch.uint8 if double else torch.float32}
    assert len(scales) == 21


def test_evaluation_does_not_change_a_quantized_base(tiny):
    made = loaded(tiny, "qlora", "nf4").model.eval()
    before = {n: load.checksum(p) for n, p in made.named_parameters()}
    with torch.no_grad():
        made(input_ids=torch.ones(1, 4, dtype=torch.long))
    assert {n: load.checksum(p) for n, p in made.named_parameters()} == before


def test_a_base_not_stored_as_the_precision_defines_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(quantization, "config", lambda *_: None)  # a library that skips quantization silently
    with pytest.raises(Unsupported, match=r"precision nf4: 21 weight matrices were not quantized, .*_proj\.weight$"):
        loaded(tiny, "qlora", "nf4")


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A function that returns the folder of a family's tiny base."""
    return lambda name, **changes: architectures.make(tmp_path_factory.mktemp(name), name, **changes)


@pytest.mark.parametrize("precision", ["nf4", "fp4", "int8", "nf4-fp32"])
def test_falcons_linear_layers_are_quantized_as_when_done_by_hand(precision, family):
    from transformers import integrations
    from transformers.models.falcon.modeling_falcon import FalconLinear

    unpatched = integrations.replace_with_bnb_linear
    found = loaded(home := family("falcon"), "lora", precision)
    assert integrations.replace_with_bnb_linear is unpatched
    by_hand = loaded(home, "lora", "fp32" if precision == "nf4-fp32" else "bf16").model
    layers = [(name, m) for name, m in by_hand.named_modules() if isinstance(m, FalconLinear)]
    assert len(layers) == 3 * 4
    for name, layer in layers:
        bias = layer.bias is not None
        if precision == "int8":
            made = bnb.nn.Linear8bitLt(
                layer.in_features, layer.out_features, bias, has_fp16_weights=False, threshold=6.0
            )
            made.weight = bnb.nn.Int8Params(layer.weight.data, requires_grad=False, has_fp16_weights=False)
        else:
            settings = {"compress_statistics": True, "quant_type": precision[:3]}
            made = bnb.nn.Linear4bit(layer.in_features, layer.out_features, bias, torch.bfloat16, **settings)
            made.weight = bnb.nn.Params4bit(layer.weight.data, requires_grad=False, **settings)
            made.support_avx512bf16_for_cpu = False
        made.bias = layer.bias
        by_hand.set_submodule(name, made.to("cpu"))
    assert [n for n, _ in found.model.named_parameters()] == [n for n, _ in by_hand.named_parameters()]
    assert torch.equal(logits(found.model, precision, IDS), logits(by_hand, precision, IDS))


def test_a_failed_load_restores_the_library(tmp_path):
    from transformers import integrations

    unpatched = integrations.replace_with_bnb_linear
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        loaded(tmp_path, "lora", "nf4")
    assert integrations.replace_with_bnb_linear is unpatched


@pytest.mark.parametrize(
    ("precision", "compute", "double"),
    [
        ("nf4", "bf16", True),
        ("nf4", "bf16", False),
        ("fp4", "bf16", True),
        ("nf4", "fp16", True),
        ("nf4-fp32", "bf16", True),
        ("nf4-fp32", "fp32", True),
    ],
)
def test_fused_experts_are_stored_in_4_bits_and_used_dequantized(precision, compute, double, family):
    how = effective(precision, {"compute_dtype": compute})
    where = {"device": "cpu", "trust_remote_code": False}
    home = family("mixtral")
    found, whole = load.load(home, how, False, double, **where), loaded(home, "lora", "fp32")
    assert found.parameters == whole.parameters
    experts = [(n, p) for n, p in whole.model.named_parameters() if p.ndim == 3]
    assert len(experts) == 3 * 2
    stored = dict(found.model.named_parameters())
    for name, parameter in experts:
        path, _, end = name.rpartition(".")
        as_loaded = parameter.data.to(getattr(torch, how.weights))
        codes, state = bnb.functional.quantize_4bit(as_loaded, compress_statistics=double, quant_type=precision[:3])
        assert torch.equal(stored[f"{path}.parametrizations.{end}.original"], codes)
        plain = bnb.functional.dequantize_4bit(codes, state).to(getattr(torch, how.compute))
        read = getattr(found.model.get_submodule(path), end)
        assert torch.equal(read, plain)
        assert read.dtype == plain.dtype
    codes = sum(p.numel() for p in stored.values() if p.dtype == torch.uint8)
    packed = sum(load.parameter_count(p) for p in stored.values() if p.dtype == torch.uint8)
    assert packed == 2 * codes == sum(p.numel() for n, p in load.matrices(whole.model).items() if "mlp.gate" not in n)


def test_gradients_through_fused_4_bit_experts_equal_those_through_the_dequantized_matrices(family):
    home, found = family("mixtral"), {}
    for who in ("codes", "matrices"):
        base = loaded(home, "adapter", "nf4-fp32").model
        for module in [m for m in base.modules() if who == "matrices" and hasattr(m, "parametrizations")]:
            for name in list(module.parametrizations):
                setattr(type(module), name, getattr(module, name))  # in place of the property
        torch.manual_seed(0)
        tuned = adapter.attach(base, 4, {"kind": "houlsby", "activation": "gelu", "scale": None})
        with load.autocast(PRECISIONS["nf4-fp32"], "cpu"):
            tuned(input_ids=IDS, labels=IDS, use_cache=False).loss.backward()
        found[who] = [p.grad for p in tuned.parameters() if p.requires_grad]
    assert sum(float(g.abs().sum()) > 0 for g in found["codes"]) >= 3 * 2 * 2
    assert all(torch.equal(*pair) for pair in zip(*found.values(), strict=True))


def test_the_scales_of_fused_experts_count_as_quantization_state(family):
    from peftbench.measure.ledger import account

    base = loaded(family("mixtral"), "adapter", "nf4")
    with account(base.model, False, {}) as book:
        pass
    experts = [m for m in base.model.modules() if hasattr(m, "parametrizations")]
    scales = sum(p[0].quant_state.absmax.nbytes for m in experts for p in m.parametrizations.values())
    assert scales == 3 * 4 * 3 * 64 * 128 // 64  # a byte for each block of 64
    assert book.live["quantization_state"] > scales
    assert book.live["base_weights"] + book.live["quantization_state"] >= base.weights_bytes


def test_with_checkpointing_4_bit_experts_have_a_lower_peak_than_bf16(family, tmp_path):
    home, peaks = family("mixtral", intermediate_size=512), {}
    for precision in ("bf16", "nf4"):
        settings = {"steps": 2, "gradient_checkpointing": True}
        made = trials.trial(home, tmp_path, "adapter", precision, training=settings, evaluate=("colour",))
        row = trial.run(trials.job(made, tmp_path), 0.0, lambda _: None, lambda *_: None).row
        assert row.status == "ok", row.message
        peaks[precision] = row.peak_train_bytes
    assert peaks["nf4"] < 0.75 * peaks["bf16"]


@pytest.mark.parametrize("precision", ["int8", "int8-fp32"])
def test_fused_experts_in_int8_are_refused_with_the_reason(precision, family):
    told = r"9 weight matrices .* largest model\.layers\.0\.mlp\.experts\.gate_up_proj.*LLM\.int8 does not support"
    with pytest.raises(Unsupported, match=told):
        loaded(family("mixtral"), "lora", precision)


def test_matrices_exclude_embeddings_head_norms_and_biases_of_experts(tmp_path):
    from transformers import GptOssConfig, GptOssForCausalLM

    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "head_dim": 16, "vocab_size": 320}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2}
    GptOssForCausalLM(GptOssConfig(**sizes, **heads, pad_token_id=1)).save_pretrained(tmp_path)
    tiny_base.tokenizer().save_pretrained(tmp_path)
    found = loaded(tmp_path, "lora", "nf4").model
    ends = [n.removeprefix("model.layers.0.").removesuffix(".weight") for n in load.matrices(found)]
    attention, experts = [f"self_attn.{x}_proj" for x in "qkvo"], "mlp.experts.parametrizations.{}.original"
    assert ends == [*attention, "mlp.router", experts.format("gate_up_proj"), experts.format("down_proj")]


def test_three_dimensional_tensors_other_than_experts_are_not_quantized():
    convolution = torch.nn.Conv1d(8, 8, 4)
    assert not quantization.is_fused(convolution, convolution.weight)
    assert not quantization.is_fused(torch.nn.Module(), torch.zeros(4, 1, 8))
    assert not quantization.is_fused(torch.nn.Linear(4, 4), torch.zeros(4, 4))
    assert quantization.is_fused(torch.nn.Module(), torch.zeros(4, 8, 8))


def test_all_methods_train_in_the_same_dtype_on_a_bf16_base(tiny):
    from peftbench.records.resolve import resolve

    for name, method in METHODS.items():
        if method.trains and not method.variants and why_unsupported(method, "bf16", "cpu") is None:
            base = loaded(tiny, name, "bf16")
            options = {k: s.default for k, s in method.options.items()} | ({"alpha": 8.0} if name == "lora" else {})
            tuned = resolve(method.attach)(base.model, 4, options)
            assert {p.dtype for p in load.cast_trainable(tuned, PRECISIONS["bf16"])} == {torch.float32}, name


@pytest.mark.parametrize(("spoil", "told"), [("weights", "header"), ("tokenizer", "tokenizer")])
def test_a_base_that_cannot_be_loaded_is_named(spoil, told, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "broken_base")
    if spoil == "weights":
        (folder / "model.safetensors").write_bytes(b"not weights at all")
    else:
        (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=f"broken_base.*{told}"):
        loaded(folder, "lora", "fp32")


@pytest.mark.parametrize(("ooms", "raised"), [(1, torch.OutOfMemoryError), (0, RuntimeError)])
def test_running_out_of_memory_while_quantizing_is_reported_as_such(ooms, raised, tiny, monkeypatch):
    """transformers catches any error in a tensor's conversion and raises another one without the cause."""
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda: {"num_ooms": ooms})

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(bnb.functional, "quantize_4bit", full)
    with pytest.raises(RuntimeError) as raised_error, load._loading_errors(tiny, "cuda"):
        load_in_four_bits(tiny)
    assert type(raised_error.value) is raised
    assert failures.out_of_memory(raised_error.value) is bool(ooms)


def load_in_four_bits(folder):
    from transformers import AutoModelForCausalLM

    how = quantization.config(PRECISIONS["nf4"], True)
    AutoModelForCausalLM.from_pretrained(folder, quantization_config=how, device_map={"": "cpu"})


def test_only_tf32_lets_convolutions_round(tiny):
    torch.backends.cudnn.allow_tf32 = True  # torch's default
    loaded(tiny, "lora", "fp32")
    assert torch.backends.cudnn.allow_tf32 is False


@pytest.mark.parametrize(
    ("method", "precision", "named"),
    sample(
        [
            ("lora", "bf16", True),
            ("lora", "fp16", True),
            ("full", "bf16-true", False),
            ("qlora", "nf4", True),
        ],
        2,
    ),
)
def test_what_the_models_class_keeps_in_float32_stays_so_and_the_row_says_it(
    method, precision, named, tiny, tmp_path, monkeypatch
):
    from transformers import LlamaForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    from peftbench.report.collect import collect
    from peftbench.report.notes import settings
    from tests.support.results_factory import store

    if named:
        monkeypatch.setattr(LlamaForCausalLM, "_keep_in_fp32_modules_strict", {"norm"})
    else:  # as the decay rates of olmo_hybrid

        def made(self, size, eps=1e-6):
            torch.nn.Module.__init__(self)
            self.weight = torch.nn.Parameter(torch.ones(size, dtype=torch.float32))
            self.variance_epsilon = eps

        whole = LlamaRMSNorm.forward
        monkeypatch.setattr(LlamaRMSNorm, "__init__", made)
        monkeypatch.setattr(LlamaRMSNorm, "forward", lambda self, x: whole(self, x).to(x.dtype))
    result = trials.run(trials.trial(tiny, tmp_path, method, precision), tmp_path, predicts=True)
    row = result.row
    assert row.status == "ok", row.message
    assert "float32 0.0" in row.loaded_dtypes
    assert row.predicted_train_bytes == row.peak_train_bytes
    (note,) = (n for n in settings.notes(collect(store(tmp_path / "r", result))) if "float32" in n)
    assert f"in {precision}: its own code keeps some weights in float32 (loaded: " in note


def test_a_dtype_that_the_class_does_not_choose_is_refused_with_names(tiny, monkeypatch):
    whole = load.use_one_kernel

    def change(model):
        whole(model)
        model.model.norm.weight.data = model.model.norm.weight.data.double()

    monkeypatch.setattr(load, "use_one_kernel", change)
    with pytest.raises(UserError, match=r"expected weights in bfloat16, but loaded .* \(model.norm.weight\)"):
        load.load(tiny, PRECISIONS["bf16"], False, True, device="cpu", trust_remote_code=False)


def test_a_convolution_that_stays_unquantized_is_not_taken_for_experts():
    model = torch.nn.Sequential(torch.nn.Conv1d(4, 4, 2), torch.nn.Linear(4, 4))
    assert load._why_plain(model, "0.weight", PRECISIONS["nf4"]) == ", of a convolution"
    assert load._why_plain(model, "1.weight", PRECISIONS["int8"]) == ""


def test_layers_whose_weights_the_models_code_clamps_or_reads_stay_unquantized(tmp_path):
    from torch import nn

    from peftbench.models.layer_code import read_weights, unpackable_weights

    class Clamps(nn.Module):
        def __init__(self):
            super().__init__()
            self.clamped, self.read, self.called = (nn.Linear(2, 2) for _ in range(3))

        def forward(self, x):
            self.clamped.weight.data.clamp_(-1, 1)
            y = nn.functional.linear(self.clamped(x), self.read.weight)
            return self.called(y.to(self.called.weight.dtype))

    assert unpackable_weights(Clamps()) == {"clamped", "read"}
    assert read_weights(Clamps()) == {"read"}
