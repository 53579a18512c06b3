"""Part 2, the planner beside the allocator: the predicted peak, what torch allocated and reserved, what the device had.

Some cells run alone, so that what the device reports belongs to them; the others run beside each other, and only their
allocators' own counts are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.validation.gpu import grids, texts
from tools.validation.gpu.results import Kept
from tools.validation.gpu.scale import Scale

NAME = "planner"
SMALL, LARGE = "llama-3.2-1b", "llama-7b"
METHODS: dict[str, list[str]] = {
    "lora": ["bf16"],
    "qlora": ["nf4"],
    "full": ["bf16"],
    "adapter": ["bf16", "nf4"],
    "llama_adapter": ["bf16", "nf4"],
    "prefix_tuning": ["bf16", "nf4"],
    "prompt_tuning": ["bf16", "nf4"],
}
"""Seven methods in bf16 and nf4, as far as they exist: LoRA on 4 bits is QLoRA."""


def suite(scale: Scale, shape: str, methods: dict[str, Any], work: Path, checkpointing: bool = False) -> dict[str, Any]:
    """Return a suite of a shape on texts of full length."""
    file = work / "long.jsonl"
    if not file.exists():
        texts.write(file, [scale.length + 8] * (scale.micro * 32))
    return {
        "base": {"shape": scale.shapes[shape]},
        "threads": 4 if scale.whole else 1,
        "seeds": 1,
        "tasks": {"texts": texts.task(file)},
        "train": {
            "steps": scale.steps,
            "batch_size": scale.micro,
            "micro_batch_size": scale.micro,
            "sequence_length": scale.length,
            "untimed_steps": 1,
            "learning_rate": 1e-4,
            "gradient_checkpointing": checkpointing,
            **({} if scale.pages else {"optimizer": "adamw"}),
        },
        "evaluate": {"inference": False, "retention": False},
        "methods": methods,
    }


def groups(scale: Scale, work: Path) -> list[grids.Cells]:
    """Return the groups of cells in the order of their worth."""
    blocks = {name: {"precision": precisions} for name, precisions in METHODS.items()}
    light = {name: block for name, block in blocks.items() if name != "full"}
    first = {name: blocks[name] for name in ("lora", "qlora")}
    rest = {name: block for name, block in light.items() if name not in first}

    def cells(name: str, shape: str, methods: dict[str, Any], workers: int, saves: bool = True, **more: Any) -> Any:
        text = suite(scale, shape, methods, work, **more)
        return grids.Cells(f"{name} {shape}", text, scale.device, workers, saves=saves)

    full = {"full": {"precision": ["bf16"]}}
    return [
        cells("alone", LARGE, scale.few(first), 1),
        *scale.some(
            [
                cells("beside others", LARGE, rest, 3),
                cells("beside others", SMALL, light, 4),
                cells("without saving", SMALL, full, 1, False),
                cells("recomputing", LARGE, light, 3, checkpointing=True),
                cells("recomputing", SMALL, light, 4, checkpointing=True),
                cells("recomputing without saving", LARGE, full, 1, False, checkpointing=True),
                cells("recomputing without saving", SMALL, full, 1, False, checkpointing=True),
            ],
            0,
        ),
    ]


def measure(scale: Scale, kept: Kept, work: Path) -> Iterator[str]:
    """Measure what is missing and yield what each cell gave."""
    yield from grids.every(kept, NAME, groups(scale, work), work, scale.workers)
