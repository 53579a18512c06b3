"""Loading takes little more memory than what is loaded."""

from __future__ import annotations

from pathlib import Path

import bitsandbytes
import pytest
import torch
import transformers

from peftbench.models import sliced
from tests.support import architectures, loading_peak, tiny_base

WEIGHTS = [
    (torch.bfloat16, (4, 96, 64)),
    (torch.float32, (101, 333)),
    (torch.float16, (128, 64)),
]


@pytest.mark.parametrize(("dtype", "shape"), WEIGHTS)
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False])
def test_4_bits_made_slice_by_slice_are_those_made_at_once(kind, double, dtype, shape, monkeypatch):
    sliced.register()
    weight = torch.randn(shape, dtype=dtype)
    settings = {"quant_type": kind, "compress_statistics": double}
    codes, state = bitsandbytes.functional.quantize_4bit(weight, **settings)
    monkeypatch.setattr(sliced, "WEIGHTS", 1024)
    sizes = spy(monkeypatch, "quantize_4bit")
    parts, other = bitsandbytes.functional.quantize_4bit(weight, **settings)
    assert max(sizes) == 1024
    assert codes.shape == parts.shape
    assert torch.equal(codes, parts)
    for name, tensor in state.as_dict().items():
        assert not isinstance(tensor, torch.Tensor) or torch.equal(tensor, other.as_dict()[name])


def spy(monkeypatch, name: str) -> list[int]:
    """Let the sliced operator note how many weights it gives the library's own at a time."""
    sizes: list[int] = []
    usual = getattr(sliced, name)

    def noted(whole, *given):
        return usual(lambda part, *others: (sizes.append(part.numel()), whole(part, *others))[1], *given)

    monkeypatch.setattr(sliced, name, noted)
    return sizes


@pytest.mark.parametrize("shape", [(101, 64), (8, 4096)])
def test_8_bits_made_slice_by_slice_are_those_made_at_once(shape, monkeypatch):
    sliced.register()
    weight = torch.randn(shape, dtype=torch.float16)
    codes, scales, _ = bitsandbytes.functional.int8_vectorwise_quant(weight)
    monkeypatch.setattr(sliced, "WEIGHTS", 1024)
    sizes = spy(monkeypatch, "int8_vectorwise_quant")
    parts, other, outliers = bitsandbytes.functional.int8_vectorwise_quant(weight)
    assert max(sizes) == max(1024, shape[1])
    assert outliers is None
    assert torch.equal(codes, parts)
    assert torch.equal(scales, other)


@pytest.mark.parametrize("random_weights", [True, False])
def test_experts_in_4_bits_are_quantized_a_layer_at_a_time(random_weights, tmp_path):
    layers = 8
    config = architectures.CONFIGS["mixtral"](num_hidden_layers=layers)
    folder = experts(config, tmp_path)
    experts_of_a_layer = 2 * config.num_local_experts * 3 * config.intermediate_size * config.hidden_size  # 16 bits
    peak = loading_peak.measured(folder, "nf4", forward=True, random_weights=random_weights)
    codes = layers * experts_of_a_layer / 4
    assert peak < codes + 4 * experts_of_a_layer  # of all layers in 16 bits it would be 8 of these


def experts(config: transformers.PreTrainedConfig, folder: Path) -> Path:
    """Write a mixture of experts with its tokenizer."""
    tiny_base.tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    transformers.MixtralForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder
