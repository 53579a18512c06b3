"""A base is loaded at the precision that its word means, measured, or refused with its name."""

from __future__ import annotations

import shutil

import pytest
import torch
from test_methods import loaded

from peftbench import model
from peftbench.errors import Unsupported, UserError
from peftbench.methods import METHODS
from peftbench.precision import PRECISIONS, why_unsupported

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
def test_a_base_is_stored_as_the_methods_precision_says(method, precision, dtypes, bytes_, tiny):
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
    made = model.load(tiny, PRECISIONS["nf4"], False, double, device="cpu", trust_remote_code=False)
    scales = [p.quant_state.absmax.dtype for p in made.model.parameters() if hasattr(p, "quant_state")]
    assert set(scales) == {torch.uint8 if double else torch.float32}
    assert len(scales) == 21


def test_evaluation_leaves_a_quantized_base_as_it_was(tiny):
    made = loaded(tiny, "qlora", "nf4").model.eval()
    before = {n: model.checksum(p) for n, p in made.named_parameters()}
    with torch.no_grad():
        made(input_ids=torch.ones(1, 4, dtype=torch.long))
    assert {n: model.checksum(p) for n, p in made.named_parameters()} == before


def test_a_base_that_is_not_what_the_precision_says_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(model, "_quantization", lambda *_: None)  # a library that skips quantization silently
    with pytest.raises(Unsupported, match="precision nf4: 21 weight matrices were not quantized"):
        loaded(tiny, "qlora", "nf4")


def test_experts_that_the_library_leaves_unquantized_are_refused_and_plain_ones_take_adapters(tiny, tmp_path):
    from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

    from peftbench.methods import adapter

    config = MixtralConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
    )
    MixtralForCausalLM(config).save_pretrained(tmp_path / "moe")
    AutoTokenizer.from_pretrained(tiny).save_pretrained(tmp_path / "moe")
    with pytest.raises(Unsupported, match=r"not quantized, the largest model\.layers\.0\.mlp\.experts"):
        loaded(tmp_path / "moe", "qlora", "nf4")
    plain = loaded(tmp_path / "moe", "adapter", "fp32").model
    adapter.attach(plain, 4, {"kind": "houlsby", "activation": "gelu", "scale": None})
    trained = [name for name, p in plain.named_parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * 4


def test_all_methods_train_in_the_same_type_on_a_bf16_base(tiny):
    from peftbench.methods import resolve

    for name, method in METHODS.items():
        if method.trains and not method.variants and why_unsupported(method, "bf16", "cpu") is None:
            base = loaded(tiny, name, "bf16")
            options = {k: s.default for k, s in method.options.items()} | ({"alpha": 8.0} if name == "lora" else {})
            tuned = resolve(method.attach)(base.model, 4, options)
            assert {p.dtype for p in model.cast_trainable(tuned, PRECISIONS["bf16"])} == {torch.float32}, name


@pytest.mark.parametrize(("spoil", "told"), [("weights", "header"), ("tokenizer", "tokenizer")])
def test_a_base_that_cannot_be_loaded_is_named(spoil, told, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "broken_base")
    if spoil == "weights":
        (folder / "model.safetensors").write_bytes(b"not weights at all")
    else:
        (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=f"broken_base.*{told}"):
        loaded(folder, "lora", "fp32")
