"""One night: the rows of a results folder, by cell, with what is needed to compare them with another night's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.errors import UserError
from peftbench.records.watch import Watch
from peftbench.results.busy_machine import Measured, is_void
from peftbench.results.remote_names import name_of
from peftbench.results.rows import is_number, rows_of_grid
from peftbench.results.seeds import Summary, summarize
from peftbench.results.settings import flatten
from peftbench.results.store import read_trials, recorded_grid
from peftbench.results.watch.examples import Stored
from peftbench.results.watch.findings import Cell

if TYPE_CHECKING:
    import pandas as pd

COMPUTES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate")
"""Packages whose version decides what a training step computes, and how fast."""
MACHINE = ("cpu", "cpu_count", "cpus_available", "gpus", "openmp", *(f"packages.{name}" for name in COMPUTES))
"""Parts of the environment that must be equal for times to compare."""
TIMES = ("protocol", "device", "threads", "workers")
"""Columns that must be equal for times to compare."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Night:
    """The trials of one results folder."""

    name: str
    trials: pd.DataFrame
    """The rows of the recorded grid, or the latest of each cell and seed."""
    summaries: Mapping[Cell, Summary]
    stored: Stored
    """The outcomes of scored examples, read when they are first needed."""
    excluded: int = 0
    """Stored rows that are not part of the grid."""
    unfinished: int = 0
    """Trials of the grid that have no row."""
    watch: Watch | None = None
    """What the suite says is judged; None if the folder does not record it."""

    @cached_property
    def cells(self) -> Mapping[Cell, pd.DataFrame]:
        """The rows of each cell, in the order of the grid."""
        return {
            (str(base), str(cell)): rows for (base, cell), rows in self.trials.groupby(["base", "cell"], sort=False)
        }

    @cached_property
    def _ok(self) -> Mapping[Cell, pd.DataFrame]:
        return {cell: rows[rows["status"] == "ok"] for cell, rows in self.cells.items()}

    @cached_property
    def _records(self) -> Mapping[Cell, Rows]:
        each: dict[Cell, list[dict[str, Any]]] = {cell: [] for cell in self.cells}
        for row in self.trials[self.trials["status"] == "ok"].to_dict("records"):  # at once: it is slow for each frame
            each[str(row["base"]), str(row["cell"])].append(row)
        return each  # type: ignore[return-value]

    def ok(self, cell: Cell) -> pd.DataFrame:
        """Return the ``ok`` rows of a cell."""
        return self._ok[cell]

    def records(self, cell: Cell) -> Rows:
        """Return the ``ok`` rows of a cell, each by its columns."""
        return self._records[cell]

    @cached_property
    def tasks(self) -> tuple[str, ...]:
        """Columns of all scores and other measured numbers."""
        return tuple(map(str, self.trials.columns))

    @property
    def contents(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The suites and the base models that these are results of."""
        suites, bases = (tuple(map(str, self.trials[name].unique())) for name in ("suite", "base"))
        return suites, bases


def read(folder: Path | str) -> Night:
    """Return a folder's night.

    Raises:
        UserError: if the folder holds no results, or its rows are not comparable with each other.
    """
    place = Path(folder)
    stored, grid = read_trials(place), recorded_grid(place)
    try:
        trials = rows_of_grid(stored, grid.keys if grid else None)
        summaries = {(s.base, s.cell): s for s in summarize(trials)}
    except UserError as error:
        raise UserError(f"{name_of(folder)}: {error}") from error
    unfinished = len(set(grid.keys) - set(stored["key"])) if grid else 0
    watch = grid.watch if grid else None
    return Night(
        name_of(folder), trials, summaries, Stored(place, trials), len(stored) - len(trials), unfinished, watch
    )


def differing(old: pd.DataFrame, new: pd.DataFrame, names: Iterable[str]) -> str | None:
    """Return which of these columns is not the same in rows of both sides, with its values; None if all are.

    A column that a side does not know does not differ.
    """
    for name in names:
        if name in old and name in new:
            one, other = (shown(side[name].dropna()) for side in (old, new))
            if one and other and one != other:
                return f"{name} is {_short(one)} and {_short(other)}"
    return None


def other_machine(old: pd.DataFrame, new: pd.DataFrame) -> str | None:
    """Return why times of these rows do not compare: another machine, or other versions of what computes."""
    found = differing(old, new, TIMES)
    if found is not None:
        return found
    sides = [environment(rows["environment_json"]) for rows in (old, new)]
    for wanted in MACHINE:
        one, other = (
            "; ".join(f"{name} {value}" for name, value in sorted(side.items()) if part_of(name, wanted))
            for side in sides
        )
        if one and other and one != other:
            values = [text.removeprefix(f"{wanted} ") for text in (one, other)]
            return f"{wanted} is {values[0]} and {values[1]}"
    return None


def other_gpu(old: pd.DataFrame, new: pd.DataFrame) -> str | None:
    """Return that rows of both sides ran on GPUs of other names; None if not, or if a side does not know."""
    one, other = (gpu_names(rows["environment_json"]) for rows in (old, new))
    return f"the GPU is {one} and {other}" if one and other and one != other else None


def gpu_names(texts: Iterable[Any]) -> str:
    """Return the names of the GPUs in rows' environments, with commas between them; empty if none is known."""
    names = set()
    for text in dict.fromkeys(texts):
        try:
            gpus = json.loads(text).get("gpus") or []
            names |= {str(gpu["name"]) for gpu in gpus}
        except (TypeError, ValueError, AttributeError, KeyError):
            continue
    return ", ".join(sorted(names))


def part_of(name: str, wanted: str) -> bool:
    """Return whether a dotted name of the environment is this part of it, or within it."""
    return name == wanted or name.startswith(f"{wanted}.")


def environment(texts: Iterable[Any]) -> dict[str, str]:
    """Return each part of rows' environments with all its values, as text; unreadable ones and nulls are left out."""
    values: dict[str, list[Any]] = {}
    for text in dict.fromkeys(texts):
        try:
            read = json.loads(text)
        except (TypeError, ValueError):
            continue
        for name, value in flatten(read).items() if isinstance(read, dict) else ():
            if value is not None:
                values.setdefault(name, []).append(value)
    return {name: shown(listed) for name, listed in values.items()}


def shown(listed: Iterable[Any]) -> str:
    """Return the different values as text, with commas between them."""
    return ", ".join(
        sorted({value if isinstance(value, str) else json.dumps(value, default=_plain) for value in listed})
    )


def _plain(value: Any) -> Any:
    """Return a value of a DataFrame as JSON knows it."""
    return value.item() if hasattr(value, "item") else str(value)


def _short(text: str) -> str:
    """Return a hash by its beginning; anything else unchanged."""
    return text[:12] if len(text) == 64 and " " not in text else text


def timed(rows: Rows, phase: Measured = "train") -> tuple[Rows, Rows]:
    """Return ``ok`` rows whose times count, and those whose times are void."""
    found: tuple[Rows, Rows] = ([], [])
    for row in rows:
        found[is_void(row, phase)].append(row)
    return found


def seed_of(row: Mapping[str, Any]) -> int | None:
    """Return a row's seed; None for the untuned base model."""
    return int(row["seed"]) if is_number(row["seed"]) else None
