"""Part 4, what was published: lit-llama's memory and minutes of LLaMA-7B, QLoRA's peaks; full fine-tuning, merging."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.validation.gpu import grids, planner, texts
from tools.validation.gpu.results import Kept
from tools.validation.gpu.scale import Scale

NAME = "claims"
ITERATIONS = 62_400
"""Forward and backward passes of four examples in lit-llama's runs."""
GIGABYTES = {"llama-7b": 16, "gpt-neox-20b": 24, "llama-65b": 48}
"""Memory of the cards on which QLoRA is said to train these models."""
LIT, PEAKS, FULL = "lit-llama", "QLoRA", "full"


def groups(scale: Scale, work: Path) -> list[grids.Cells]:
    """Return the groups of cells in the order of their worth."""
    file = work / "alpaca_like.jsonl"
    texts.write(file, texts.alpaca_like(scale.iterations * 4, scale.length))
    lit = planner.suite(scale, "llama-7b", scale.few(_lit_llama()), work)
    prompts = work / "prompts.jsonl"
    texts.write(prompts, [scale.length // 2] * 8)
    lit |= {"precision": "bf16-true", "tasks": {"texts": texts.task(file), "prompts": texts.prompts(prompts)}}
    lit |= {"evaluate": {"inference": True, "retention": False, "max_length": scale.length}}
    train: dict[str, Any] = {
        "data": {"texts": 1},
        "steps": scale.iterations,
        "batch_size": 4,
        "micro_batch_size": 4,
        "untimed_steps": scale.untimed,
    }
    lit["train"] |= train | {"schedule": "constant", "clip_norm": None, "weight_decay": 0}
    peaks = []
    for shape in scale.some(["gpt-neox-20b", "llama-65b", "llama-7b"]):
        text = planner.suite(scale, shape, {"qlora": {"rank": 64, "alpha": 16, "precision": "nf4"}}, work, True)
        text["train"] |= {"batch_size": 1, "micro_batch_size": 1}
        peaks.append(grids.Cells(f"{PEAKS} {shape}", text, scale.device, saves=False))
    block = {"precision": scale.some(["bf16-true", "bf16"])}
    full = planner.suite(scale, "llama-7b", {"full": block}, work, True)
    return [
        grids.Cells(f"{LIT} llama-7b", lit, scale.device),
        *peaks,
        grids.Cells(f"{FULL} llama-7b", full, scale.device, saves=False),
    ]


def _lit_llama() -> dict[str, Any]:
    return {
        "lora": {"rank": 8, "alpha": 16, "dropout": 0.05, "target_modules": ["q_proj", "v_proj"]},
        "llama_adapter": {"rank": 10},
    }


def measure(scale: Scale, kept: Kept, work: Path) -> Iterator[str]:
    """Measure what is missing and yield what each cell gave."""
    yield from grids.every(kept, NAME, groups(scale, work), work, 1)
