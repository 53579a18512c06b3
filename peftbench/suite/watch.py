"""``watch:`` of a suite: what a comparison of two nights judges, and from which change on. It enters no trial's key."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from peftbench.records.watch import DEFAULT, KINDS, Kind, Watch
from peftbench.suite.builder import Builder
from peftbench.suite.schema import Strict, as_list

Percent = Annotated[float, Field(ge=0, le=1000)]
Points = Annotated[float, Field(ge=0, le=100)]
Factor = Annotated[float, Field(ge=1)]


class WatchBlock(Strict):
    """``watch:``."""

    judge: Annotated[list[Kind], Field(min_length=1), BeforeValidator(as_list)] = Field(
        default=list(KINDS), description=f"one of, or a list of: {', '.join(KINDS)}"
    )
    speed_percent: Percent = DEFAULT.speed_percent
    inference_percent: Percent = DEFAULT.inference_percent
    memory_percent: Percent = DEFAULT.memory_percent
    size_percent: Percent = DEFAULT.size_percent
    score_points: Points = DEFAULT.score_points
    retention_percent: Percent = DEFAULT.retention_percent
    merge_factor: Factor = DEFAULT.merge_factor
    machine_percent: Percent = DEFAULT.machine_percent


def watch(b: Builder) -> Watch | None:
    """Return what the suite's ``watch:`` says; None if it says nothing. Problems are recorded."""
    given: Any = b.document.get(("watch",))
    if given is None:
        return None
    block = b.check(WatchBlock, ("watch",))
    if block is None:
        return None
    return Watch(
        **{**block.model_dump(exclude={"judge"}), "judge": tuple(kind for kind in KINDS if kind in block.judge)}
    )
