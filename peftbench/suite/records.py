"""The records of a validated suite, which trials are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftbench.records import Base, Devices, Retention, Task
from peftbench.records.watch import Watch
from peftbench.tasks.splits import splits

MOST_TRIALS = 10_000
"""Most trials of a grid, unless the suite allows more."""
CHECKPOINT_SECONDS = 600.0
"""Time after which a trial saves the state of its training, unless the suite gives another one."""


@dataclass(frozen=True)
class Block:
    """One block of a method in ``methods:``. Every combination of its values is a cell."""

    method: str
    where: str
    """Where it is in the file, as ``file:line: key.path``, for messages."""
    axes: Mapping[str, tuple[Any, ...]]
    """The values of each setting that the block gives, in the order of the file."""


@dataclass(frozen=True)
class ParameterBudget:
    """``match:``: the number of trainable parameters that every method's rank is chosen for.

    It is a number, or what a method trains at a rank.
    """

    parameters: int | None = None
    """The number; None if a method and its rank give it."""
    method: str = ""
    rank: int | None = None


@dataclass(frozen=True)
class Search:
    """``search:``: how one of several learning rates is selected, on the validation split, before the grid runs."""

    seeds: int
    """Trials per candidate; the grid does not use their seeds."""
    share: float
    """How long a candidate trains, as a share of the grid's steps, epochs, tokens or seconds."""


@dataclass(frozen=True)
class BaseDefaults:
    """Defaults that follow from the base model and the data, for settings that a suite does not give."""

    width: int | None = None
    """Hidden size that learning rates follow from; None if no cell needs it."""
    experts: bool = False
    """Whether the base model is a mixture of experts, whose rates do not follow its hidden size."""
    precision: str | None = None
    """In place of fp32; None to leave it."""
    sequence_length: int | None = None
    """In data tokens; None if every cell gives it, or the data is not known yet."""
    max_length: int | None = None
    """Least data tokens for scored prompts with their answers; None if they are not known."""
    examples: int | None = None
    """Training examples, of which one pass is made; None if every cell gives its length of training."""
    reasons: tuple[tuple[str, str], ...] = ()
    """(setting, why it has its default) of each of the above, as the end of a sentence."""
    notes: tuple[str, ...] = ()
    """What could not be determined, and why."""

    @property
    def unread(self) -> bool:
        """Whether lengths that follow from the data are not known, so that the trials' lengths only stand in."""
        return bool(self.notes) and self.max_length is None


@dataclass(frozen=True)
class SuiteOptions:
    """A suite as requested on the command line: the file and the options that change or select from it."""

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
    """A validated suite, which ``expand`` turns into trials."""

    name: str
    description: str | None
    path: Path
    base: Base
    device: str
    """``auto``, ``cpu`` or ``cuda``."""
    threads: int | None
    """CPU threads of each trial; None for an equal share of the cores."""
    workers: int
    """How many trials run at the same time."""
    seeds: tuple[int, ...]
    axes: Mapping[str, tuple[Any, ...]]
    """Top-level ``precision`` and ``rank``, for methods whose block gives none."""
    tasks: tuple[Task, ...]
    data: tuple[tuple[str, float], ...]
    """(task name, sampling weight) of each training set."""
    train: Mapping[str, tuple[Any, ...]]
    """The values of each training setting in ``train:``, in the order of the file."""
    blocks: tuple[Block, ...]
    evaluate_batch_size: int | None
    """None for ``auto``: the trial finds one."""
    max_length: int | None
    """None for the grid's longest ``sequence_length``."""
    split: str
    timeout_seconds: float | None
    phase_timeouts: tuple[tuple[str, float], ...]
    """(phase, seconds) of the phases that have a limit of their own."""
    checkpoint_every_seconds: float | None
    display_path: str
    """The file as messages name it."""
    devices: tuple[Devices | None, ...] = (None,)
    """The devices of one trial, an axis of the grid; None for one device."""
    only: tuple[tuple[str, str], ...] = ()
    """(field, value) pairs of ``--only`` that select trials; see ``select``."""
    smoke: bool = False
    """Whether it runs in smoke mode."""
    inference: bool = True
    """Whether generation with the tuned models is measured."""
    generation: str = "greedy"
    """Where the parameters of decoding come from; see ``Evaluation``."""
    profile: str | None = None
    """A profile of ``methods.profiles``: defaults for settings that the suite does not give."""
    match: ParameterBudget | None = None
    """The budget that ranks are chosen for; None if ranks are as given."""
    retention: Retention | None = None
    """General text whose loss is measured before and after training."""
    deployed: tuple[str, ...] = ()
    """Forms in which tuned models are scored as they would be deployed."""
    search: Search | None = None
    """None if a list of learning rates is an axis like any other."""
    strict: bool = False
    """Whether it is an error if rows differ in a setting that is not an axis."""
    defaults: BaseDefaults | None = None
    """What follows from the base model and the data (``base_defaults.resolve``); None for the general defaults."""
    watch: Watch | None = None
    """What a comparison of two nights judges; None if the suite does not say it. It enters no trial's key."""
    ladder: str | None = None
    """What each cell stands beside in the ladder of a report: ``previous`` or ``first``; None for no ladder. It enters
    no trial's key."""
    most_trials: int = MOST_TRIALS
    """The most trials that the grid, or its learning-rate search, may have."""

    options: SuiteOptions = SuiteOptions()
    """How it was asked for: the command that is recorded with the results repeats it."""

    @property
    def scored(self) -> tuple[str, ...]:
        """Names of the tasks that are scored."""
        return tuple(task.name for task in self.tasks if self.split in splits(task))
