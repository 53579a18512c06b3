"""Tiny base models that are stored quantized, made as their users make them: by the quantizer's own library."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.support import tiny_base

TORCHAO = ("torchao-int8", "torchao-int4", "torchao-float8", "torchao-nvfp4")
"""Kinds that need torchao; its int4 is that of its codes, each of which it stores in 8 bits."""


def why_missing(kind: str) -> str | None:
    """Return why a kind, or what a package makes, cannot be made here.

    With ``PEFTBENCH_ALL_GROUPS`` that is an error instead.
    """
    if kind not in (*TORCHAO, "torchao") or find_spec("torchao"):
        return None
    assert not os.environ.get("PEFTBENCH_ALL_GROUPS"), "the dependency group quantizers is not installed"
    return "torchao is not installed (dependency group quantizers)"


def _of_torchao(kind: str) -> Any:
    from torchao import quantization
    from torchao.prototype.mx_formats import NVFP4WeightOnlyConfig
    from torchao.quantization.granularity import PerGroup
    from transformers import TorchAoConfig

    made = {
        "torchao-int8": lambda: quantization.Int8WeightOnlyConfig(version=2),
        "torchao-int4": lambda: quantization.IntxWeightOnlyConfig(torch.int4, PerGroup(32)),
        "torchao-float8": quantization.Float8WeightOnlyConfig,
        "torchao-nvfp4": NVFP4WeightOnlyConfig,
    }
    return TorchAoConfig(made[kind]())


def settings(kind: str) -> Any:
    """Return the quantization config of a kind of stored base.

    Kinds are ``nf4``, ``nf4-single``, ``fp4`` and ``int8`` of bitsandbytes, and those of ``TORCHAO``.
    """
    if kind in TORCHAO:
        return _of_torchao(kind)
    if kind == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=kind.partition("-")[0],
        bnb_4bit_use_double_quant=not kind.endswith("-single"),
        bnb_4bit_compute_dtype=torch.float32,
    )


FLOATS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Values of the codes of a 4-bit float with 2 bits of exponent and 1 of fraction (OCP MX, E2M1); bit 3 is the sign."""


def decoded(weight: Any) -> torch.Tensor:
    """Return the values that a weight of torchao means, float32, computed here from its codes and scales."""
    codes, scale = weight.qdata, weight.scale.float()
    rows, columns = weight.shape
    if codes.dtype != torch.uint8:
        return codes.float() * scale.repeat_interleave(columns // scale.shape[1], dim=1)
    numbers = torch.stack([codes & 15, codes >> 4], dim=2).reshape(rows, columns).long()  # the low half is the first
    values = torch.tensor([*FLOATS, *(-each for each in FLOATS)])[numbers]
    # 128 x 4 scales lie together, of these rows r, r + 32, r + 64 and r + 96 (cuBLAS, "1D block scaling factors")
    blocks, wide = columns // 16, -(-columns // 64)
    row, block = torch.arange(rows)[:, None], torch.arange(blocks)[None, :]
    place = (row // 128 * wide + block // 4) * 512 + row % 32 * 16 + row % 128 // 32 * 4 + block % 4
    return values * scale.flatten()[place].repeat_interleave(16, dim=1) * weight.per_tensor_scale


def make(original: Path, folder: Path, kind: str) -> Path:
    """Quantize a tiny base model and save it, with its tokenizer, as a folder; return the folder."""
    model = AutoModelForCausalLM.from_pretrained(
        original, dtype=torch.bfloat16, quantization_config=settings(kind), device_map={"": "cpu"}
    )
    model.save_pretrained(folder)
    tiny_base.tokenizer().save_pretrained(folder)
    return folder
