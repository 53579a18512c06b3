"""The records of a validated suite: what a document becomes and what trials come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.records import Base, Retention, Task
from peftbench.tasks.splits import splits


@dataclass(frozen=True)
class Block:
    """One block of a method: every combination of its values is a cell."""

    method: str
    where: str
    """``file:line: key path`` for messages."""
    axes: Mapping[str, tuple[Any, ...]]
    """Values of each setting that the block gives, in the order written."""


@dataclass(frozen=True)
class Budget:
    """``match:``: how many parameters every method is to train."""

    parameters: int | None = None
    """As given; None for what a method at a rank trains."""
    method: str = ""
    rank: int | None = None


@dataclass(frozen=True)
class Search:
    """How a learning rate is chosen where a suite gives several: on the validation split, before the grid runs."""

    seeds: int
    """Trials of each candidate; their seeds are none of the grid's."""
    share: float
    """Of the grid's steps, epochs or tokens that a candidate trains for."""


@dataclass(frozen=True)
class SuiteOptions:
    """A suite as a command names it: the file and the options that change or select from it."""

    suite: str = ""
    """A YAML file, or the name of a suite that comes with peftbench."""
    overrides: tuple[str, ...] = ()
    """``key.path=value`` each (``--set``)."""
    only: tuple[str, ...] = ()
    """``field=value,value`` each (``--only``)."""
    seeds: str | None = None
    """A count, or a list with a comma (``--seeds``)."""
    smoke: bool = False
    """Whether it runs in smoke mode (``--smoke``)."""


@dataclass(frozen=True)
class Suite:
    """A validated suite: what ``expand`` turns into trials."""

    name: str
    description: str | None
    path: Path
    base: Base
    device: str
    """``auto``, ``cpu`` or ``cuda``."""
    threads: int | None
    """CPU threads of each trial; None for an equal share of the cores."""
    workers: int
    """Trials that run at the same time."""
    seeds: tuple[int, ...]
    axes: Mapping[str, tuple[Any, ...]]
    """Top-level ``precision`` and ``rank``, for methods that do not say their own."""
    tasks: tuple[Task, ...]
    data: tuple[tuple[str, float], ...]
    """(task name, weight) of each training set."""
    train: Mapping[str, tuple[Any, ...]]
    """Values of each training setting that the suite gives, in the order written."""
    blocks: tuple[Block, ...]
    evaluate_batch_size: int | None
    """None for one that is found."""
    max_length: int | None
    """None for the grid's longest ``sequence_length``."""
    split: str
    timeout_seconds: float | None
    shown: str
    """The file as messages name it."""
    only: tuple[tuple[str, str], ...] = ()
    """(field, value) pairs that select trials; see ``select``."""
    smoke: bool = False
    """Whether it is run in smoke mode."""
    inference: bool = True
    """Whether tuned models are measured in use."""
    profile: str | None = None
    """Of ``methods.profiles``: which settings methods have where the suite gives none."""
    match: Budget | None = None
    """What ranks are chosen for; None where they are as given."""
    retention: Retention | None = None
    """Text of which each trial's loss before and after training is told."""
    search: Search | None = None
    """None where a list of learning rates is an axis as any other."""
    strict: bool = False
    """Whether rows that differ in what is no axis are an error."""

    options: SuiteOptions = SuiteOptions()
    """How it was asked for: the command that is recorded with the results repeats it."""

    @property
    def scored(self) -> tuple[str, ...]:
        """Names of the tasks that are scored."""
        return tuple(task.name for task in self.tasks if self.split in splits(task))
