"""Published tables, names and layouts as frozen records. What a key means is in the docstring under its field."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
Hand = Literal["primary", "conversion", "secondary", "memory"]
"""Through whose hands a number went: the authors' own file; a conversion of the authors' text that others made; a
transcription by others; nobody's, it was recalled."""
Dimension = Literal["task", "base", "method", "rank", "parameters", "precision", "targets"]
"""What a row's head can have."""
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table."""

    base: str | None
    """Base model as printed; None if the columns are base models."""
    method: str
    """A name in ``names.yaml``."""
    values: Mapping[str, float]
    """Column to number, in the units of the table; columns without a number are missing."""
    label: str = ""
    """The row's head as printed."""
    about: str = ""
    """What says which of several rows it is: the state, the experiment, the machine."""
    group: str | None = None
    """The part of the table that it belongs to: a data set, a state; None if the table has no parts."""
    parameters: float | None = None
    """Trainable parameters as printed."""
    hand: Hand | None = None
    """If other than the table's."""
    from_prior_work: bool = False
    """Whether the source copied it from another paper."""
    from_memory: bool = False
    """Whether nobody read it."""
    status: Literal["ok", "oom", "not_run", "error"] = "ok"
    settings: Settings = field(default_factory=dict)
    """Parts of the protocol that the row states itself: ``rank``, ``learning_rate``, ..."""
    spread: Mapping[str, float] = field(default_factory=dict)
    """Column to spread as printed."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class Block:
    """Parts of a protocol with the rows and columns that they are of."""

    of: Mapping[str, Any]
    """Field of a row, or ``column``, to the value or values that are meant; empty for all."""
    settings: Settings
    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class Average:
    """A column that is the unweighted mean of others."""

    column: str
    over: tuple[str, ...]
    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class PublishedTable:
    """One table of the literature."""

    id: str
    source: str
    url: str
    table: str
    """Which table of the source."""
    kind: str
    read: str
    """How its numbers were read, in words."""
    hand: Hand
    columns: tuple[str, ...]
    rows: tuple[PublishedRow, ...]
    traps: tuple[str, ...] = ()
    protocol: tuple[Block, ...] = ()
    """What is stated of how its numbers were made; a later block has precedence."""
    average: Average | None = None
    statistic: str = ""
    """What a number is over seeds, as the source says it."""
    dataset: str = ""
    train_data: str = ""
    hardware: str = ""
    unit: str = ""
    __pydantic_config__ = STRICT

    @property
    def title(self) -> str:
        """Return "Hu et al. 2021, LoRA, Table 2"."""
        return f"{self.source}, {self.table}"


@dataclass(frozen=True)
class TaskMatch:
    """Which tasks of a suite belong in a column."""

    names: tuple[str, ...] = ()
    """Names of tasks, in lower case; a task of another data set does not match by its name."""
    datasets: tuple[str, ...] = ()
    """Hub ids, ``nyu-mll/glue:rte`` with a configuration."""
    lm_eval: tuple[str, ...] = ()
    """Names of lm-eval tasks, or of groups in ``names.yaml``, all of whose tasks are needed."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class LayoutColumn:
    """One column: a task's metric, a stored quantity, or the mean of other columns."""

    key: str
    title: str = ""
    """Head of the column; empty for the key."""
    group: str = ""
    """Head over several columns."""
    unit: str = ""
    scale: Annotated[float, Field(gt=0)] = 1.0
    """What a stored value (a fraction of 1, bytes, seconds) is multiplied with."""
    digits: Annotated[int, Field(ge=0, le=6)] = 1
    higher_is_better: bool = True
    task: TaskMatch | None = None
    trained_on: TaskMatch | None = None
    """Which training data its cells have; None for any."""
    metrics: tuple[str, ...] = ()
    """Names of the metric, the first of which that a score has is shown."""
    quantity: tuple[tuple[str, ...], ...] = ()
    """Columns of the trials: the first group of which all are known is summed."""
    mean_of: tuple[str, ...] = ()
    """Keys of other columns."""
    base: str | None = None
    """The base model that the column is of, if columns are base models."""
    rank: int | None = None
    """The rank that the column is of, if columns are ranks."""
    needs: tuple[str, ...] | None = None
    """Parts of the protocol that must be stated and equal for "same protocol"; None for those of the layout."""
    __pydantic_config__ = STRICT

    @property
    def head(self) -> str:
        """Return the title of the column."""
        return self.title or self.key

    @property
    def stored(self) -> str:
        """Return which columns of the trials it shows: "peak_a_bytes + peak_b_bytes, else peak_c_bytes"."""
        return ", else ".join(" + ".join(group) for group in self.quantity)


@dataclass(frozen=True)
class Source:
    """A published table of a layout."""

    table: str
    """Its id."""
    name: str
    """What notes call it."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Key of a column of the layout to the table's own, where they differ."""
    scale: Mapping[str, float] = field(default_factory=dict)
    """Key of a column to what the published number is multiplied with, to have the unit of the layout."""
    groups: tuple[str, ...] = ()
    """Parts of the table that are shown; empty for all."""
    states: Mapping[str, str] = field(default_factory=dict)
    """Part of the table to what its rows are called, if it has several states of the same rows."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class Layout:
    """How a table of the literature is laid out."""

    name: str
    title: str
    """Its caption without the statistics."""
    rows: tuple[Dimension, ...]
    """What the head of a row has, from left to right; a base model or task that repeats stands once."""
    columns: tuple[LayoutColumn, ...]
    published: tuple[Source, ...]
    needs: tuple[str, ...]
    """Parts of the protocol that must be stated and equal for "same protocol"; what is stated beside them must be equal
    too."""
    note: str = ""
    """What a reader should know before comparing."""
    row_tasks: Mapping[str, TaskMatch] = field(default_factory=dict)
    """Tasks that are rows, by the name that the published table gives them; empty if tasks are columns."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class BaseName:
    """A base model of the literature."""

    title: str
    also: tuple[str, ...] = ()
    """Hub ids, and other names of the same weights."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class MethodMatch:
    """A method of peftbench, with the options that make it what the literature calls by one name."""

    method: str
    precisions: tuple[str, ...] = ()
    """Empty for all."""
    options: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Option to the values that it may have."""
    free: tuple[str, ...] = ()
    """Options that may have any value."""
    optimizers: tuple[str, ...] = ()
    """Optimizers that are part of the method; no other match of a method allows these."""
    __pydantic_config__ = STRICT


@dataclass(frozen=True)
class MethodName:
    """A method of the literature."""

    title: str
    matches: Annotated[tuple[MethodMatch, ...], Field(alias="is")] = ()
    """What it can be here; empty if peftbench has no such method."""
    __pydantic_config__ = ConfigDict(extra="forbid", populate_by_name=True)


@dataclass(frozen=True)
class Names:
    """What base models and methods are called."""

    bases: Mapping[str, BaseName]
    methods: Mapping[str, MethodName]
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Group of lm-eval to its tasks, the mean of which a column of it has, each with the same weight."""
    __pydantic_config__ = STRICT
