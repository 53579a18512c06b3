"""Two results folders, cell by cell: what moved, whether seeds explain it, and what else had changed.

Differences are judged by Welch's interval over seeds (see ``peftbench.stats``), so a folder with one seed per cell has
differences but no verdict. Numbers that do not compare are not compared, and the key that differs is named.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peftbench.stats import SAME_IN_CELL, Spread, Summary, flatten, latest, settings_of, summarize, welch
from peftbench.store import read_trials

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["same", "within noise", "beyond noise", "no spread known", "differs"]

MEASURED = ("peak_train_bytes", "tokens_per_second")
"""Memory and time, which depend on the machine."""
SIZES = ("checkpoint_bytes", "trainable_parameters")
"""What does not vary between seeds: any difference is one."""
NEEDS: Mapping[str, tuple[str, ...]] = {
    "score": ("protocol",),
    "peak_train_bytes": ("protocol", "device", "memory_kind"),
    "tokens_per_second": ("protocol", "device", "threads", "workers"),
    "checkpoint_bytes": (),
    "trainable_parameters": (),
}
"""Columns that must be equal on both sides before another is compared."""


@dataclass(frozen=True)
class Change:
    """One column of one cell on both sides; None where that side did not measure it."""

    column: str
    old: Spread | None
    new: Spread | None
    verdict: Verdict | None
    """None where a side did not measure it."""

    @property
    def difference(self) -> float | None:
        """New mean less old mean."""
        return None if self.old is None or self.new is None else self.new.mean - self.old.mean

    @property
    def fell(self) -> bool:
        """Whether this is a score that fell by more than seeds explain."""
        return self.column.startswith("score_") and self.verdict == "beyond noise" and (self.difference or 0) < 0


@dataclass(frozen=True)
class CellChange:
    """One cell that both folders have."""

    old: Summary
    new: Summary
    changes: tuple[Change, ...]

    @property
    def cell(self) -> str:
        """The cell's name."""
        return self.new.cell

    @property
    def broke(self) -> bool:
        """Whether all its seeds were ok and now some are not."""
        return set(self.old.counts) == {"ok"} != set(self.new.counts)


@dataclass(frozen=True)
class Difference:
    """A setting, or a piece of the environment, that is not the same on both sides."""

    name: str
    old: str
    new: str
    cells: tuple[str, ...]
    """The cells in which it differs; empty for all that both folders have."""


@dataclass(frozen=True)
class Comparison:
    """What changed between two results folders."""

    old: str
    new: str
    cells: tuple[CellChange, ...]
    only_old: tuple[str, ...]
    only_new: tuple[str, ...]
    settings: tuple[Difference, ...]
    environment: tuple[Difference, ...]
    refused: Mapping[str, Difference]
    """Column (``score`` for all scores) that was not compared, to the key that forbids it."""

    @property
    def regressed(self) -> bool:
        """Whether a score fell beyond noise or a cell that was ok is not; the command then exits with 1."""
        return any(cell.broke or any(change.fell for change in cell.changes) for cell in self.cells)


def compare(old_folder: Path | str, new_folder: Path | str) -> Comparison:
    """Return what changed from one results folder to another, cells being matched by base and name.

    Scores, memory, speed and sizes are those of the latest row of each seed. A cell that only one folder has is
    listed, and is no regression: suites grow and shrink, and ``--only`` selects. Each verdict is at 95 % on its own, so
    among many cells that were trained anew with other random numbers some will be "beyond noise" by chance; unchanged
    code gives the same numbers and the verdict "same".

    Raises:
        UserError: if a folder holds no results, or its own rows do not compare among themselves.
    """
    old, new = latest(read_trials(old_folder)), latest(read_trials(new_folder))
    before, after = ({(s.base, s.cell): s for s in summarize(side)} for side in (old, new))
    common = [key for key in after if key in before]
    refused = _refusals(old, new)
    scores = [name for name in dict.fromkeys([*new.columns, *old.columns]) if _is_score(name)]
    columns = [name for name in (*scores, *MEASURED, *SIZES) if _kind(name) not in refused]
    cells = tuple(
        CellChange(before[key], after[key], tuple(_changes(before[key], after[key], columns))) for key in common
    )
    return Comparison(
        str(old_folder),
        str(new_folder),
        cells,
        tuple(cell for base, cell in before if (base, cell) not in after),
        tuple(cell for base, cell in after if (base, cell) not in before),
        _changed_settings(old, new, common),
        _changed_environment(old, new),
        refused,
    )


def _is_score(column: str) -> bool:
    return column.startswith("score_") and not column.endswith("_standard_error")


def _kind(column: str) -> str:
    return "score" if column.startswith("score_") else column


def _changes(old: Summary, new: Summary, columns: Iterable[str]) -> Iterable[Change]:
    for column in columns:
        one, other = old.spreads.get(column), new.spreads.get(column)
        if one is not None or other is not None:
            yield Change(column, one, other, _verdict(column, one, other))


def _verdict(column: str, old: Spread | None, new: Spread | None) -> Verdict | None:
    if old is None or new is None:
        return None
    if (old.mean, old.minimum, old.maximum) == (new.mean, new.minimum, new.maximum):
        return "same"
    if column in SIZES:
        return "differs"
    judged = welch(old, new)
    if judged is None:
        return "no spread known"
    difference, half_width = judged
    return "within noise" if abs(difference) <= half_width else "beyond noise"


def _refusals(old: pd.DataFrame, new: pd.DataFrame) -> dict[str, Difference]:
    refused = {}
    for column, needs in NEEDS.items():
        for key in needs:
            one, other = (_values(side.loc[side["status"] == "ok", key].dropna()) for side in (old, new))
            if one and other and one != other:
                refused[column] = Difference(key, one, other, ())
                break
    return refused


def _changed_settings(old: pd.DataFrame, new: pd.DataFrame, common: list[tuple[str, str]]) -> tuple[Difference, ...]:
    """Return the settings that differ between cells of the same name, each difference once with its cells."""
    found: dict[tuple[str, str, str], list[str]] = {}
    sides = [_settings(side) for side in (old, new)]
    for key in common:
        one, other = (side[key] for side in sides)
        for name in sorted(one.keys() | other.keys()):
            was, now = (json.dumps(side[name]) if name in side else "(absent)" for side in (one, other))
            if was != now:
                found.setdefault((name, was, now), []).append(key[1])
    return tuple(
        Difference(*change, tuple(cells) if len(cells) < len(common) else ()) for change, cells in found.items()
    )


def _settings(trials: pd.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the settings of each cell, and the hashes of its inputs where a row got so far as to know them."""
    known = trials[["base", "cell", "settings_json", *SAME_IN_CELL]].astype(object)
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for base, cell, text, *hashes in known.itertuples(index=False):
        named = {name: value for name, value in zip(SAME_IN_CELL, hashes, strict=True) if isinstance(value, str)}
        found[base, cell] = settings_of(text) | named | found.get((base, cell), {})
    return found


def _changed_environment(old: pd.DataFrame, new: pd.DataFrame) -> tuple[Difference, ...]:
    sides = [_environment(side) for side in (old, new)]
    found = []
    for name in sorted(sides[0].keys() | sides[1].keys()):
        one, other = (side.get(name, "(absent)") for side in sides)
        if one != other:
            found.append(Difference(name, one, other, ()))
    return tuple(found)


def _environment(trials: pd.DataFrame) -> dict[str, str]:
    """Return each piece of the rows' environments with all values it has, written out."""
    values: dict[str, list[Any]] = {}
    for text in trials["environment_json"].unique():
        for name, value in flatten(json.loads(text)).items():
            values.setdefault(name, []).append(value)
    return {name: _values(listed) for name, listed in values.items()}


def _values(listed: Iterable[Any]) -> str:
    return ", ".join(sorted({value if isinstance(value, str) else json.dumps(value, default=str) for value in listed}))
