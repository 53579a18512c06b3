"""``watch:`` of a suite: what a comparison of two nights judges, and from which change on. It enters no trial's key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from peftbench.errors import UserError
from peftbench.records.watch import DEFAULT, KINDS, Kind, Watch
from peftbench.suite.block_check import check
from peftbench.suite.builder import Builder
from peftbench.suite.document import Document, raise_problems
from peftbench.suite.schema import Strict, as_list
from peftbench.suite.yaml_lines import parse

Percent = Annotated[float, Field(ge=0, le=1000)]
Points = Annotated[float, Field(ge=0, le=100)]
OPTION = "--watch"
"""The option of commands that overrides the suite's keys."""
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
    return _watch(block)


def _watch(block: WatchBlock) -> Watch:
    kinds: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind in block.judge)
    return Watch(**{**block.model_dump(exclude={"judge"}), "judge": kinds})


def overridden(watch: Watch, given: Mapping[str, Any]) -> Watch:
    """Return a watch with some of its keys replaced, checked as in a suite.

    Raises:
        UserError: if a key is unknown or a value is not allowed; every problem is a line.
    """
    document = Document(OPTION, Path(), {"watch": dict(given)}, {})
    problems: list[str] = []
    block = check(WatchBlock, document, ("watch",), problems)
    raise_problems(problems)
    return replace(watch, **{name: getattr(_watch(block), name) for name in given})


def read_option(texts: Iterable[str]) -> dict[str, Any]:
    """Return the keys and values of ``KEY=VALUE`` texts; a value is YAML, or a list with commas.

    Raises:
        UserError: if a text has another form.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip().removeprefix("watch.")
        if not equals or not key:
            raise UserError(
                f"{OPTION}: given {text!r}; allowed: KEY=VALUE, like speed_percent=10 or judge=score,memory"
            )
        parts = [part.strip() for part in value.split(",")]
        found[key] = parts if len(parts) > 1 and not value.lstrip().startswith("[") else parse(value, OPTION)[0]
    return found
