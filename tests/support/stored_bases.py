"""Tiny base models that are stored quantized, made as their users make them: by the quantizer's own library."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.support import tiny_base

TORCHAO = ("torchao-int8", "torchao-int4", "torchao-float8")
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
    from torchao.quantization.granularity import PerGroup
    from transformers import TorchAoConfig

    made = {
        "torchao-int8": lambda: quantization.Int8WeightOnlyConfig(version=2),
        "torchao-int4": lambda: quantization.IntxWeightOnlyConfig(torch.int4, PerGroup(32)),
        "torchao-float8": quantization.Float8WeightOnlyConfig,
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


def make(original: Path, folder: Path, kind: str) -> Path:
    """Quantize a tiny base model and save it, with its tokenizer, as a folder; return the folder."""
    model = AutoModelForCausalLM.from_pretrained(
        original, dtype=torch.bfloat16, quantization_config=settings(kind), device_map={"": "cpu"}
    )
    model.save_pretrained(folder)
    tiny_base.tokenizer().save_pretrained(folder)
    return folder
