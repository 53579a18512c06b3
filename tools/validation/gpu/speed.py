"""Part 3, speed: peftbench's loop, a bare loop and transformers' ``Trainer`` on the same model, data and method."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from peftbench.records import Job
from tools.validation.gpu import grids, other_loops, planner
from tools.validation.gpu.results import Kept
from tools.validation.gpu.scale import Scale

NAME = "speed"
METHODS = {"lora": {"precision": "bf16"}, "qlora": {"precision": "nf4"}}


def groups(scale: Scale, work: Path) -> list[grids.Cells]:
    """Return the cells that are timed."""
    made = []
    for shape in scale.some([planner.LARGE, planner.SMALL]):
        text = planner.suite(scale, shape, scale.few(METHODS), work)
        text["train"] |= {"steps": scale.timed, "untimed_steps": scale.untimed}
        made.append(grids.Cells(f"speed {shape}", text, scale.device, predicts=False))
    return made


def measure(scale: Scale, kept: Kept, work: Path) -> Iterator[str]:
    """Measure what is missing and yield what each loop gave."""
    for cells in groups(scale, work):
        for name, job in grids.jobs(cells, work).items():
            yield from grids.measure(kept, NAME, {name: job}, 1)
            for loop in other_loops.LOOPS:
                other = f"{name}: {loop}"
                if other not in kept.done(NAME):
                    yield _other(kept, other, job, loop)


def _other(kept: Kept, name: str, job: Job, loop: str) -> str:
    """Measure one of the other loops; that it fails is a result too."""
    try:
        found = grids.apart(other_loops.measure, job, loop)
    except RuntimeError as error:
        kept.add(NAME, name, "error", message=str(error))
        return f"{name}: error {error}"
    kept.add(NAME, name, "ok", found=found)
    return f"{name}: {found['tokens_per_second']} tokens/s"
