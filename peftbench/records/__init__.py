"""The frozen records: a Trial goes in, a Result comes out. No torch, no pandas.

Every column that is stored in parquet is declared here once, with its type, unit and meaning. The store's schema and
the documentation in ``results/README.md`` are derived from these declarations. ``None`` means not measured or not
applicable, never zero.
"""

from peftbench.records.columns.trial import SCHEMA_VERSION
from peftbench.records.devices import STRATEGIES, Devices
from peftbench.records.memory import Category
from peftbench.records.optimizers import OPTIMIZERS, Optimizer
from peftbench.records.phase import Phase
from peftbench.records.rows import ExampleRow, Result, StepRow, TrialRow
from peftbench.records.score import Score
from peftbench.records.status import FINAL, Status
from peftbench.records.task import HEADS, Example, Task, TaskData
from peftbench.records.trial import Base, Evaluation, Head, Job, Retention, Training, Trial

__all__ = [
    "FINAL",
    "HEADS",
    "OPTIMIZERS",
    "SCHEMA_VERSION",
    "STRATEGIES",
    "Base",
    "Category",
    "Devices",
    "Evaluation",
    "Example",
    "ExampleRow",
    "Head",
    "Job",
    "Optimizer",
    "Phase",
    "Result",
    "Retention",
    "Score",
    "Status",
    "StepRow",
    "Task",
    "TaskData",
    "Training",
    "Trial",
    "TrialRow",
]
