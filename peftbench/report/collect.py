"""Read a results folder into what a report is made of: cells in the order of the methods' table, and their numbers."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from peftbench.errors import UserError
from peftbench.methods import METHODS, Method, method_of
from peftbench.records import Status
from peftbench.report import order
from peftbench.results import learning_rate_search, seeds
from peftbench.results.busy_machine import without_busy_times
from peftbench.results.crossed_effects import outcomes
from peftbench.results.crossed_effects.model import Outcomes
from peftbench.results.crossed_effects.outcomes import Arranged
from peftbench.results.learning_rate_search import CellSearch
from peftbench.results.rows import rows_of_grid
from peftbench.results.seeds import Summary
from peftbench.results.store import RecordedGrid

MEAN = "mean over tasks"
"""Name of the unweighted mean over tasks wherever a task's name is asked for."""


@dataclass(frozen=True)
class Cell:
    """One cell of the grid with all its trials; only trials that ended ``ok`` enter a mean."""

    name: str
    method: str
    precision: str
    rank: int | None
    trials: pd.DataFrame
    """Every trial of the cell, sorted by seed."""
    summary: Summary
    """Means and spreads over the finished seeds; those of times over the seeds that had the machine to themselves."""

    @property
    def title(self) -> str:
        """The method as it is written in tables."""
        return method_title(self.kind)

    @cached_property
    def record(self) -> Method | None:
        """The record of the method, or of its variant by the cell's options; None if the method is not in the table."""
        settings = read_json(next(iter(self.texts("settings_json", ok=False)), "{}"))
        try:
            return method_of(self.method, settings.get("options", {})) if self.method in METHODS else None
        except UserError:  # peft, whose tuners are its variants, is not installed where the report is made
            return METHODS[self.method]

    @property
    def kind(self) -> str:
        """The method with its variant, "peft VERA". Each kind has its own colour, marker and legend."""
        return " ".join(filter(None, (self.method, self.record.variant if self.record else "")))

    @property
    def variant(self) -> str:
        """The part of the cell's name that gives options which are axes."""
        return str(self.rows[0]["named_settings"])

    @property
    def is_base(self) -> bool:
        """Whether this is the untuned base model, which trains nothing."""
        return self.method in METHODS and not METHODS[self.method].trains

    @cached_property
    def ok(self) -> pd.DataFrame:
        """The trials that ended ``ok``."""
        return self.trials if not self.troubles else self.trials[self.trials["status"] == Status.OK.value]

    @cached_property
    def rows(self) -> tuple[dict[str, Any], ...]:
        """``trials`` as dicts, which are much faster to go through than frames."""
        return tuple(dict(zip(self.trials, row, strict=True)) for row in self.trials.to_numpy(object).tolist())

    @cached_property
    def ok_rows(self) -> tuple[dict[str, Any], ...]:
        """``ok`` as dicts."""
        return tuple(row for row in self.rows if row["status"] == Status.OK.value)

    def texts(self, column: str, ok: bool = True) -> list[str]:
        """Return the different texts of a column, each once, of the trials that ended ok or of all; no nulls."""
        rows = self.ok_rows if ok else self.rows
        return list(dict.fromkeys(text for row in rows if isinstance(text := row.get(column), str)))

    @property
    def troubles(self) -> Mapping[str, int]:
        """How many trials ended as each status that is not ``ok``."""
        return {status: n for status, n in self.summary.counts.items() if status != Status.OK.value}

    @property
    def trouble(self) -> str:
        """How trials failed: "1 oom, 1 killed" or "unsupported"; empty if all ended ok."""
        if set(self.troubles) == {Status.UNSUPPORTED.value}:
            return Status.UNSUPPORTED.value
        return ", ".join(f"{n} {status}" for status, n in self.troubles.items())

    def mean(self, column: str) -> float | None:
        """Return the mean of a column over the finished seeds, None if none has it."""
        return self.summary.mean(column)

    def sd(self, column: str) -> float | None:
        """Return the standard deviation of a column over the finished seeds, None for fewer than two."""
        found = self.summary.spreads.get(column)
        return None if found is None else found.sd


@dataclass(frozen=True)
class Results:
    """Everything a report is made of."""

    trials: pd.DataFrame
    steps: pd.DataFrame
    examples: pd.DataFrame
    tasks: tuple[str, ...]
    """Scored tasks, in the order of the settings."""
    cells: tuple[Cell, ...]
    """In the order of the methods' table, then variant, rank and precision."""
    left_out: int = 0
    """Number of stored rows that are not shown: not of the recorded grid, or older rows of the same cell and seed."""
    grid: RecordedGrid | None = None
    """The recorded grid; None if none was recorded."""
    choices: Mapping[str, CellSearch] = field(default_factory=dict)
    """Learning-rate searches by the stored name of the cell."""
    folder: Path | None = None
    """Where the results are stored, as it was given; None if they were not read from one folder."""

    @cached_property
    def finished(self) -> tuple[Cell, ...]:
        """Cells with at least one trial that ended ``ok``."""
        return tuple(cell for cell in self.cells if len(cell.ok))

    @property
    def searched(self) -> tuple[tuple[Cell, CellSearch], ...]:
        """The cells whose learning rate was searched, each with its search."""
        names = [(cell, cell.summary.cell) for cell in self.cells]
        return tuple((cell, self.choices[name]) for cell, name in names if name in self.choices)

    @cached_property
    def tuned(self) -> tuple[Cell, ...]:
        """Finished cells that train something: all but the untuned base model."""
        return tuple(cell for cell in self.finished if not cell.is_base)

    @cached_property
    def asked(self) -> int:
        """Number of trials of the recorded grid; 0 if none was recorded."""
        return len(set(self.grid.keys)) if self.grid else 0

    @cached_property
    def imported(self) -> bool:
        """Whether the rows are another benchmark's: no measuring protocol of peftbench is known of any of them."""
        return "protocol" in self.trials and bool(self.trials["protocol"].isna().all())

    @property
    def missing(self) -> int:
        """Number of trials of the recorded grid that have no result yet; 0 if none was recorded."""
        return max(0, self.asked - len(self.trials))

    def reference(self, kind: str, task: str) -> float | None:
        """Return ``chance`` or ``majority`` of a task (or their mean over tasks); None if it is not defined."""
        if task == MEAN:
            each = [self.reference(kind, name) for name in self.tasks]
            known = [value for value in each if value is not None]
            return statistics.fmean(known) if each and len(known) == len(each) else None
        column = f"{kind}_{task}"
        known = self.trials[column].dropna() if column in self.trials else pd.Series(dtype=float)
        return float(known.iloc[0]) if len(known) else None

    def outcomes(self, tasks: tuple[str, ...]) -> dict[str, Outcomes]:
        """Return the outcomes of the finished cells by name; none at all if any of them has none stored."""
        each = self.stored_outcomes(tasks)
        known = {name: found for name, found in each.items() if isinstance(found, Outcomes)}
        return known if len(known) == len(each) else {}

    def without_outcomes(self, tasks: tuple[str, ...]) -> dict[str, str]:
        """Return the finished cells that have no outcomes, by name, with the reason."""
        return {name: found for name, found in self.stored_outcomes(tasks).items() if isinstance(found, str)}

    def stored_outcomes(self, tasks: tuple[str, ...]) -> dict[str, Outcomes | str]:
        """Return the outcomes of each finished cell by name, or the reason why it has none."""
        if tasks not in self._outcomes:
            stored = outcomes.read(self.trials, self._arranged, tasks)
            self._outcomes[tasks] = {cell.name: stored[cell.summary.base, cell.summary.cell] for cell in self.finished}
        return self._outcomes[tasks]

    @cached_property
    def _arranged(self) -> Arranged:
        return outcomes.arrange(self.examples)

    @cached_property
    def _outcomes(self) -> dict[tuple[str, ...], dict[str, Outcomes | str]]:
        return {}

    @cached_property
    def memo(self) -> dict[str, Any]:
        """Statistics that several parts of a page need, by name, so that each is computed once."""
        return {}

    def score_record(self, task: str) -> dict[str, Any]:
        """Return a task's stored Score of some finished trial (metric, examples, ...); empty if there is none."""
        for cell in self.finished:
            for text in cell.texts("scores_json"):
                record = read_json(text).get(task)
                if isinstance(record, dict):
                    return record
        return {}

    def common(self, column: str) -> Any:
        """Return the one value that all rows which have the column share; None if there is none or several."""
        values = self.distinct(column)
        return values[0] if len(values) == 1 else None

    def distinct(self, column: str) -> list[Any]:
        """Return the distinct known values of a column, sorted."""
        return sorted(self.trials[column].dropna().unique().tolist()) if column in self.trials else []


def read_json(text: Any) -> dict[str, Any]:
    """Return a JSON column's object; an empty one if the column holds none."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def random_weights(settings: Mapping[str, Any]) -> bool:
    """Return whether a trial's settings say that its base model has random weights, so that nothing is scored."""
    return bool((settings.get("base") or {}).get("random_weights"))


def method_title(kind: str) -> str:
    """Return a method's title with its variant; its name if it is not in the table (its package is not installed)."""
    name, _, variant = kind.partition(" ")
    return " ".join(filter(None, (METHODS[name].title if name in METHODS else name, variant)))


def from_tables(
    trials: pd.DataFrame, steps: pd.DataFrame, examples: pd.DataFrame, grid: RecordedGrid | None = None
) -> Results:
    """Arrange stored tables for a report.

    Args:
        trials: One row per trial, the columns of ``records.TrialRow`` and ``score_{task}`` and its kin.
        steps: The columns of ``records.StepRow``.
        examples: The columns of ``records.ExampleRow``.
        grid: The recorded grid: only its rows are shown; None for the latest row of each cell and seed.

    Raises:
        UserError: If the rows' numbers do not compare, naming the column that differs.
    """
    newest = rows_of_grid(trials, grid.keys if grid else None).copy()
    tasks = _tasks(newest)
    scores = [f"score_{task}" for task in tasks]
    newest[f"score_{MEAN}"] = newest[scores].astype("Float64").mean(axis=1, skipna=False) if scores else None
    several = newest["base"].nunique() > 1
    rows = dict(_by_cell(newest))
    summaries = seeds.summarize(without_busy_times(newest))
    cells = [_cell(summary, rows[summary.base, summary.cell], several) for summary in summaries]
    cells.sort(key=order.of_grid(grid.keys) if grid and grid.ladder else order.of_methods)
    return Results(newest, steps, examples, tasks, tuple(cells), len(trials) - len(newest), grid)


def _cell(summary: Summary, rows: pd.DataFrame, several_bases: bool) -> Cell:
    name = f"{summary.cell} ({summary.base})" if several_bases else summary.cell
    return Cell(name, summary.method, summary.precision, summary.rank, rows, summary)


def _by_cell(trials: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """Yield the trials of each base model and cell, sorted by seed, those without one first.

    All columns that are no floats become objects, which pandas keeps in one block: slicing a hundred blocks for each of
    a thousand cells would take most of a report's time.
    """
    ordered = trials.sort_values(["seed", "key"], kind="stable", na_position="first")
    ordered = ordered.iloc[ordered.groupby(["base", "cell"], sort=False).ngroup().argsort(kind="stable")]
    objects = {name: object for name, dtype in ordered.dtypes.items() if dtype != np.float64}
    plain = ordered.astype(objects).copy()
    names = list(zip(plain["base"].tolist(), plain["cell"].tolist(), strict=True))
    starts = [place for place, name in enumerate(names) if not place or name != names[place - 1]]
    for start, end in itertools.pairwise([*starts, len(names)]):
        yield names[start], plain.iloc[start:end]


def _tasks(trials: pd.DataFrame) -> tuple[str, ...]:
    """Return the tasks of which a row has or should have a score, in the order of the settings.

    With random weights no row should.
    """
    suffix = "_standard_error"
    columns = [name for name in trials.columns if name.startswith("score_")]
    errors = {name + suffix for name in columns}
    found = [name.removeprefix("score_") for name in columns if name not in errors]
    wanted: list[str] = []
    for settings in trials["settings_json"].dropna().unique():
        found_settings = read_json(settings)
        named = None if random_weights(found_settings) else found_settings.get("evaluate")
        wanted += [str(task) for task in named if task not in wanted] if isinstance(named, list) else []
    scored = [task for task in found if task in wanted or trials[f"score_{task}"].notna().any()]
    return tuple(sorted(scored, key=lambda task: wanted.index(task) if task in wanted else len(wanted)))


def collect(folder: Path, examples: bool = True) -> Results:
    """Read a results folder for a report.

    Args:
        folder: what ``peftbench run`` wrote.
        examples: whether steps and examples are needed too, which are most of what is stored.

    Raises:
        UserError: If it holds no trials, or its rows cannot stand in one table.
    """
    from peftbench.results import store

    nothing = pd.DataFrame()
    tables = store.read(folder) if examples else store.Tables(store.read_trials(folder), nothing, nothing)
    if not len(tables.trials):
        raise UserError(f"{folder.name}: no trials stored there; run a suite first")
    try:
        found = from_tables(tables.trials, tables.steps, tables.examples, store.recorded_grid(folder))
        return replace(found, choices=learning_rate_search.searches(folder), folder=folder)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
