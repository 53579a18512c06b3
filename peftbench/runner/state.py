"""The state of a running trial: what it has recorded so far, so that a failure keeps it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from peftbench.evaluation.structure import Structure
from peftbench.measure import watch
from peftbench.measure.clock import Clock
from peftbench.records import ExampleRow, Job, Phase, Score, StepRow, TrialRow
from peftbench.records.columns.group import ColumnGroup
from peftbench.records.columns.memory import MemoryColumns
from peftbench.training import loop
from peftbench.training.parallel import ALONE, Parallel


@dataclass
class Earlier:
    """What earlier processes of a trial did, up to the state from which this one continued."""

    resumes: int = 0
    """How often training continued."""
    seconds: float = 0.0
    """Their wall time."""
    peaks: dict[str, int] = field(default_factory=dict)
    """Peaks of memory in training, by column of ``MemoryColumns``."""

    def merged(self, measured: MemoryColumns) -> MemoryColumns:
        """Return peaks of this process that are at least those of the earlier ones."""
        higher = {n: max(v, getattr(measured, n)) for n, v in self.peaks.items() if getattr(measured, n) is not None}
        return replace(measured, **higher)


@dataclass
class Run:
    """A running trial."""

    job: Job
    clock: Clock
    report: loop.Progress
    row: TrialRow
    """The row so far. Its status is meaningless until the trial has ended."""
    asked_at: float = 0.0
    """``time.perf_counter()`` when the process was requested."""
    earlier: Earlier = field(default_factory=Earlier)
    phase: Phase = Phase.START
    sensors: watch.Sensors = field(default_factory=watch.Sensors)
    ledger: dict[str, Mapping[str, int]] = field(default_factory=dict)
    """Bytes by category after loading, after attaching and at the evaluation peak."""
    keep: Callable[[], None] = lambda: None
    """Hands over the trial's result as it is, which counts if the process is killed after it."""
    steps: tuple[StepRow, ...] = ()
    scores: tuple[Score, ...] = ()
    examples: tuple[ExampleRow, ...] = ()
    stepped: bool = False
    """Whether a training step was taken."""
    parallel: Parallel = ALONE
    """How several devices share the trial."""
    base: Any = None
    """The untuned base model as this process calls it, until a method is attached."""
    read_here: Callable[[], Any] | None = None
    """Reads the base model with its weights, where this process has it without them; None where it has them."""
    bare: Structure | None = None
    """The structure of the base model before a method was attached; None if its inference cost is not measured."""

    def highest_resident(self) -> int:
        """Return the highest peak of resident memory of this process and those that it continues, in bytes."""
        return max(self.sensors.resident.highest(), self.earlier.peaks.get("host_peak_resident_bytes", 0))

    def record(self, *groups: ColumnGroup) -> None:
        """Add what the groups know to the row; a value that is known again replaces the earlier one.

        Raises:
            TypeError: if a group has a column that rows do not have. It is raised here, within the phase, so that such
                a mistake cannot lose a finished trial.
        """
        self.row = self.row.updated(*groups)

    def reported(self, step: int, steps: int, loss: float) -> None:
        """Report a training step."""
        self.stepped = True
        self.report(step, steps, loss)

    def record_memory(self, moment: str, categories: Mapping[str, int]) -> None:
        """Add the bytes by category at one moment of the trial to the row."""
        self.ledger[moment] = categories
        self.record(MemoryColumns(ledger_json=json.dumps(self.ledger)))
