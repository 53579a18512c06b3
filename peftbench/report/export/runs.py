"""The trials of a results folder as runs of an experiment tracker: settings, curves, final numbers, status."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.records.columns.trial import IdentityColumns, InputColumns, OutcomeColumns, SettingsColumns
from peftbench.results.store.schema import columns

if TYPE_CHECKING:
    from peftbench.results.store import RecordedGrid, Tables

CURVES = "step/"
"""Before the names of a step's values, because some are also names of a trial's totals."""
_SETTINGS = tuple(
    name
    for group in (IdentityColumns, SettingsColumns, InputColumns)
    for name in group.__dataclass_fields__
    if not name.endswith("_json") and name not in ("key", "suite")
)
_NOT_FINAL = frozenset(
    name
    for group in (IdentityColumns, SettingsColumns, InputColumns, OutcomeColumns)
    for name in group.__dataclass_fields__
) | {"started_at", "finished_at"}
_NOT_ENVIRONMENT = ("command",)


@dataclass(frozen=True)
class Run:
    """One trial. What is not known is None in ``config`` and absent from ``final`` and ``history``."""

    key: str
    """The trial's key: the run's identity in every tool, so that a second export finds the first."""
    name: str
    suite: str
    status: str
    message: str | None
    """Why it did not end ok."""
    started_at: str | None
    """UTC, ISO 8601."""
    finished_at: str | None
    config: Mapping[str, Any]
    """The trial's settings as in the suite, its columns that are inputs, and the environment; nested."""
    final: Mapping[str, float | int | bool | str]
    """Final numbers and facts by column name, and each task's other metrics as ``task/metric``."""
    history: tuple[tuple[int, Mapping[str, float | int | bool]], ...]
    """Step number from 1, and the step's known values; their names begin with ``step/``."""
    tags: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the trial ended ok; everything else is a failed run."""
        return self.status == "ok"


@dataclass(frozen=True)
class Exported:
    """The rows that a results folder is about, as a report shows them."""

    folder: Path
    tables: Tables
    grid: RecordedGrid | None

    def runs(self) -> Iterator[Run]:
        """Yield the trials as runs, in the order of the grid."""
        steps = dict(tuple(self.tables.steps.groupby("key", sort=False)))
        for row in self.tables.trials.astype(object).to_dict("records"):
            known = {name: plain(value) for name, value in row.items()}
            yield _run(known, _history(steps.get(known["key"])))


def gather(folder: Path) -> Exported:
    """Read the rows that a results folder is about: those of its last grid.

    Raises:
        UserError: if it holds no results, or a file in it cannot be read.
    """
    from peftbench.results import store
    from peftbench.results.rows import rows_of_grid

    tables, grid = store.read(folder), store.recorded_grid(folder)
    trials = rows_of_grid(tables.trials, grid.keys if grid else None).reset_index(drop=True)
    others = (frame[frame["key"].isin(trials["key"])] for frame in (tables.steps, tables.examples))
    return Exported(folder, store.Tables(trials, *others), grid)


def plain(value: Any) -> Any:
    """Return a value of a table as Python's own; None for what is not known, which tables of floats have as NaN."""
    if value is None or type(value).__name__ == "NAType" or value != value:
        return None
    return value.item() if hasattr(value, "item") else value


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings with dotted names: ``train.steps``, ``tasks.0.name``; empty mappings and lists as such."""
    found: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(place): item for place, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def _run(row: Mapping[str, Any], history: tuple[tuple[int, Mapping[str, Any]], ...]) -> Run:
    name = row["cell"] if row["seed"] is None else f"{row['cell']} seed {row['seed']}"
    config = _json(row["settings_json"]) | {column: row[column] for column in _SETTINGS}
    environment = {k: v for k, v in _json(row["environment_json"]).items() if k not in _NOT_ENVIRONMENT}
    config |= {"environment": environment, "key": row["key"], "started_at": row["started_at"]}
    return Run(
        row["key"],
        name,
        row["suite"],
        row["status"],
        row["message"],
        row["started_at"],
        row["finished_at"],
        config,
        _final(row),
        history,
        tuple(dict.fromkeys(("peftbench", row["method"], row["precision"], row["status"]))),
    )


def _final(row: Mapping[str, Any]) -> dict[str, Any]:
    known = {column.name for column in columns("trials")}
    found = {
        name: value
        for name, value in row.items()
        if value is not None and name not in _NOT_FINAL and not name.endswith("_json")
        if name in known or name.startswith(("score_", "chance_", "majority_"))
    }
    for task, score in _json(row["scores_json"]).items():
        metrics = score.get("metrics") if isinstance(score, Mapping) else None
        found |= {f"{task}/{name}": value for name, value in (metrics or {}).items() if value is not None}
    return found


def _history(steps: Any) -> tuple[tuple[int, Mapping[str, Any]], ...]:
    if steps is None:
        return ()
    measured = [c for c in columns("steps") if c.name not in ("key", "step", "untimed")]
    rows = []
    for row in steps.astype(object).to_dict("records"):
        values = {c.name: plain(row[c.name]) if c.nullable else row[c.name] for c in measured}  # a loss can be NaN
        rows.append((int(row["step"]), {f"{CURVES}{k}": v for k, v in values.items() if v is not None}))
    return tuple(rows)


def _json(text: str | None) -> dict[str, Any]:
    found = json.loads(text or "{}")
    return found if isinstance(found, dict) else {}


def number(value: Any) -> float | None:
    """Return a value as a finite number; None for text and for what a tracker's store would falsify."""
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    return None
