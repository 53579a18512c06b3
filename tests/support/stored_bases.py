"""Tiny base models that are stored quantized, made as their users make them: by the quantizer's own library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tests.support import tiny_base


def settings(kind: str) -> Any:
    """Return the quantization config of a kind of stored base: ``nf4``, ``nf4-single``, ``fp4`` or ``int8``."""
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
