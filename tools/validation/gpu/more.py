"""Part 5, if time is left: the quickstart on the device, and how much memory more examples take."""

from __future__ import annotations

from collections.abc import Iterator
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


def rungs(scale: Scale, work: Path) -> list[grids.Cells]:
    """Return LoRA and QLoRA with fewer and more examples in a pass."""
    made = []
    for micro in scale.some([1, 2, 8, 16]):
        methods = scale.few({"qlora": {"precision": "nf4"}, "lora": {"precision": "bf16"}})
        text = planner.suite(scale, planner.LARGE, methods, work)
        text["train"] |= {"batch_size": micro, "micro_batch_size": micro}
        made.append(grids.Cells(f"{micro} examples {planner.LARGE}", text, scale.device))
    return made


def quickstart(scale: Scale, kept: Kept, work: Path) -> Iterator[str]:
    """Measure what is missing of the quickstart and yield what each cell gave."""
    yield from grids.every(kept, QUICKSTART, [whole(scale)], work, scale.workers)


def ladder(scale: Scale, kept: Kept, work: Path) -> Iterator[str]:
    """Measure what is missing of the ladder and yield what each cell gave."""
    yield from grids.every(kept, LADDER, rungs(scale, work), work, 1)
