"""Part 5, if time is left: the quickstart on the device, the memory ladder, and each saving of memory alone."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from peftbench import suite
from tools.validation.gpu import grids, planner
from tools.validation.gpu.results import Kept
from tools.validation.gpu.scale import Scale

QUICKSTART, LADDER = "quickstart", "ladder"


def whole(scale: Scale) -> grids.Cells:
    """Return the quickstart's first seed."""
    text: dict[str, Any] = yaml.safe_load(suite.find("quickstart").read_text())
    text |= {"seeds": 1, "threads": 1, "workers": min(4, scale.workers)}
    if not scale.whole:
        text |= {"methods": {"base": None}, "tasks": {"judge": {"limit": 8}}, "evaluate": {"inference": False}}
    return grids.Cells(QUICKSTART, text, scale.device, text["workers"])


SAVINGS: tuple[dict[str, Any], ...] = (
    {},
    {"logits": "loss_bearing"},
    {"logits": "chunked"},
    {"logits": "liger"},
    {"gradient_checkpointing": True},
    {"gradient_checkpointing": "selective"},
    *({"offload": what} for what in ("activations", "weights", "optimizer", "all")),
    {"attention": "eager"},
    {"attention": "flash_attention_2"},
    {"attention": "flex_attention"},
    {"precision": "torchao-int8"},
    {"precision": "torchao-float8"},
    {"precision": "torchao-nvfp4"},
    {"compute": "fp8"},
    {"compile": "layers"},
    {"kernels": "liger"},
    {"micro_batch_size": 1},
)
"""Blocks of LoRA in bf16, the first of which the others stand beside. What the machine does not have is left out."""


def _needs_torchao(saving: dict[str, Any]) -> bool:
    return "torchao" in saving.get("precision", "") or saving.get("compute") == "fp8"


def ladders(scale: Scale, work: Path) -> list[grids.Cells]:
    """Return the suite ``memory_ladder`` at two sizes, then LoRA with each saving alone and with more examples."""
    made = []
    for shape in scale.some([planner.SMALL, planner.LARGE]):
        text: dict[str, Any] = yaml.safe_load(suite.find("memory_ladder").read_text())
        text |= {"base": {"shape": scale.shapes[shape]}, "threads": 1}
        if not scale.whole:
            text["methods"] = {"full": text["methods"]["full"][:2]}
        # at the small size only the allocator's own counts matter, so that several run beside each other
        beside = 4 if shape == planner.SMALL else 1
        made.append(grids.Cells(f"ladder {shape}", text, scale.device, beside, saves=False))
    here = [one for one in SAVINGS if not _needs_torchao(one) or find_spec("torchao")]
    blocks = [{"precision": "bf16"} | saving for saving in scale.some(here, 2)]
    text = planner.suite(scale, planner.LARGE, {"lora": blocks}, work)
    made.append(grids.Cells(f"savings {planner.LARGE}", text, scale.device))
    for micro in scale.some([1, 2, 8, 16], 0):
        text = planner.suite(scale, planner.LARGE, {"qlora": {"precision": "nf4"}, "lora": {"precision": "bf16"}}, work)
        text["train"] |= {"batch_size": micro, "micro_batch_size": micro}
        made.append(grids.Cells(f"{micro} examples {planner.LARGE}", text, scale.device))
    return made


def quickstart(scale: Scale, kept: Kept, work: Path) -> Iterator[str]:
    """Measure what is missing of the quickstart and yield what each cell gave."""
    yield from grids.every(kept, QUICKSTART, [whole(scale)], work, scale.workers)


def ladder(scale: Scale, kept: Kept, work: Path) -> Iterator[str]:
    """Measure what is missing of the ladder and yield what each cell gave."""
    yield from grids.every(kept, LADDER, ladders(scale, work), work, scale.workers)
