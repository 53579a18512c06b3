"""Two results folders, cell by cell: what moved, whether seeds explain it, and what else had changed.

Differences are judged at 95 %. Scores of several seeds, where both sides store outcomes of the same examples: by the
crossed model of seeds and examples (``peftbench.results.crossed_effects``), seeds paired where both sides have the same. All else: by
the interval of the differences seed by seed where both sides have the same seeds, by Welch's where the seeds are
others, and for a score of a single seed by its error over examples or the other side's spread over seeds, whichever is
wider. The untuned base has no seed and no noise. Numbers that do not compare are not compared, and the key that differs
is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from peftbench.errors import UserError
from peftbench.results.compare.differences import (
    Cell,
    Difference,
    changed_environment,
    changed_settings,
    refusals,
    scored_apart,
)
from peftbench.results.compare.examples import Stored, crossed
from peftbench.results.seeds import (
    Spread,
    Summary,
    choose,
    lent,
    over_examples,
    paired,
    summarize,
    untrusted_times,
    welch,
)
from peftbench.results.store import read_trials, recorded_grid

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
        return self.judged and self.verdict in ("beyond noise", "differs") and (self.difference or 0) < 0

    @property
    def judged(self) -> bool:
        """Whether this is a score that both sides have, and it is known what noise would explain."""
        return self.column.startswith("score_") and self.verdict not in (None, "no spread known")


@dataclass(frozen=True)
class CellChange:
    """One cell that both folders have."""

    old: Summary
    new: Summary
    changes: tuple[Change, ...]
    refused: Difference | None = None
    """The key that forbids to compare its scores; None where they are compared."""

    @property
    def cell(self) -> str:
        """The cell's name."""
        return self.new.cell

    @property
    def broke(self) -> bool:
        """Whether a smaller share of its seeds is ok than was."""
        was, now = (side.ok / max(1, sum(side.counts.values())) for side in (self.old, self.new))
        return now < was

    @property
    def same(self) -> bool:
        """Whether everything was compared and nothing has changed."""
        alike = self.old.counts == self.new.counts and self.refused is None
        return alike and all(change.verdict == "same" for change in self.changes)


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
    """Column (``score`` for all scores) that was not compared in any cell, to the key that forbids it."""
    left_out: tuple[int, int] = (0, 0)
    """Stored rows, old and new, that are not of the folder's recorded grid."""
    titles: tuple[str, str] = ("", "")
    """What old and new are of: suite and base."""
    busy: tuple[str | None, str | None] = (None, None)
    """Why the times of old and new are not to be trusted; None where nothing says so."""

    @property
    def unrelated(self) -> bool:
        """Whether these are results of different suites or bases that have no cell in common."""
        return self.titles[0] != self.titles[1] and not self.cells

    @property
    def regressed(self) -> bool:
        """Whether a score fell beyond noise or fewer of a cell's seeds are ok."""
        return any(cell.broke or any(change.fell for change in cell.changes) for cell in self.cells)

    @property
    def verdict(self) -> bool | None:
        """False if something regressed, True if scores were judged and none fell, None if no score could be judged.

        The command exits with 0 for True alone.
        """
        if self.regressed:
            return False
        return True if any(change.judged for cell in self.cells for change in cell.changes) else None


def compare(old_folder: Path | str, new_folder: Path | str) -> Comparison:
    """Return what changed from one results folder to another, cells being matched by base and name.

    Only rows of a folder's recorded grid count (the latest of each seed where there is no record). A cell that only
    one folder has is listed, and is no regression: suites grow and shrink, and ``--only`` selects. Each verdict is at
    95 % on its own, so among many cells that were trained anew with other random numbers some will be "beyond noise" by
    chance; unchanged code gives the same numbers and the verdict "same".

    Raises:
        UserError: if a folder holds no results, or its own rows do not compare among themselves.
    """
    sides = tuple(_Side.read(Path(folder)) for folder in (old_folder, new_folder))
    (old, before), (new, after) = ((side.trials, side.summaries) for side in sides)
    common = [key for key in after if key in before]
    refused = refusals(old, new, NEEDS)
    scores = [name for name in dict.fromkeys([*new.columns, *old.columns]) if _is_score(name)]
    columns = [name for name in (*scores, *MEASURED, *SIZES) if _kind(name) not in refused]
    stored = (sides[0].stored, sides[1].stored)
    cells = tuple(_cell_change(sides[0].cell(key), sides[1].cell(key), columns, stored) for key in common)
    return Comparison(
        str(old_folder),
        str(new_folder),
        cells,
        tuple(cell for base, cell in before if (base, cell) not in after),
        tuple(cell for base, cell in after if (base, cell) not in before),
        changed_settings(old, new, common),
        changed_environment(old, new),
        refused,
        (sides[0].left_out, sides[1].left_out),
        (sides[0].title, sides[1].title),
        (untrusted_times(old), untrusted_times(new)),
    )


@dataclass(frozen=True)
class _Side:
    """One results folder."""

    trials: pd.DataFrame
    summaries: Mapping[Cell, Summary]
    left_out: int
    stored: Stored

    @classmethod
    def read(cls, folder: Path) -> _Side:
        stored, grid = read_trials(folder), recorded_grid(folder)
        try:
            trials = choose(stored, grid.keys if grid else None)
            summaries = {(s.base, s.cell): s for s in summarize(trials)}
            return cls(trials, summaries, len(stored) - len(trials), Stored(folder, trials))
        except UserError as error:
            raise UserError(f"{folder}: {error}") from error

    @property
    def title(self) -> str:
        """What the rows are of, in words."""
        suites, bases = (", ".join(map(str, self.trials[name].unique())) for name in ("suite", "base"))
        return f"suite {suites} on {bases}"

    def cell(self, key: Cell) -> tuple[Summary, pd.DataFrame]:
        """Return a cell's summary and its ok rows."""
        rows = self.trials
        return self.summaries[key], rows[(rows["base"] == key[0]) & (rows["cell"] == key[1]) & (rows["status"] == "ok")]


def _is_score(column: str) -> bool:
    return column.startswith("score_") and not column.endswith("_standard_error")


def _kind(column: str) -> str:
    return "score" if column.startswith("score_") else column


def _cell_change(
    old: tuple[Summary, pd.DataFrame],
    new: tuple[Summary, pd.DataFrame],
    columns: Iterable[str],
    stored: tuple[Stored, Stored],
) -> CellChange:
    refused = scored_apart(old[1], new[1])
    changes = []
    for column in columns:
        if refused is not None and _kind(column) == "score":
            continue
        one, other = old[0].spreads.get(column), new[0].spreads.get(column)
        if one is not None or other is not None:
            changes.append(Change(column, one, other, _verdict(column, old, new, stored)))
    return CellChange(old[0], new[0], tuple(changes), refused)


def _verdict(
    column: str,
    old: tuple[Summary, pd.DataFrame],
    new: tuple[Summary, pd.DataFrame],
    stored: tuple[Stored, Stored],
) -> Verdict | None:
    one, other = old[0].spreads.get(column), new[0].spreads.get(column)
    if one is None or other is None:
        return None
    values = _by_seed(old[1], column), _by_seed(new[1], column)
    paired_up = values[0] and values[0].keys() == values[1].keys()
    if values[0] == values[1] if paired_up else _ends(one) == _ends(other):
        return "same"
    if column in SIZES or (_kind(column) == "score" and not any(values)):
        return "differs"  # without a seed a score is deterministic
    judged = crossed(column, (old[0].base, old[0].cell), stored, paired=bool(paired_up))
    judged = judged or _interval(column, (old[0], new[0]), (values[0], values[1]))
    if judged is None:
        return "no spread known"
    difference, half_width = judged
    return "within noise" if abs(difference) <= half_width else "beyond noise"


def _by_seed(rows: pd.DataFrame, column: str) -> dict[int, float]:
    """Return a column's values by seed, without those that are null and without rows that have no seed."""
    known = rows[["seed", column]].dropna()
    return {int(seed): float(value) for seed, value in known.itertuples(index=False)}


def _ends(spread: Spread) -> tuple[float, float, float]:
    return spread.mean, spread.minimum, spread.maximum


def _interval(
    column: str, sides: tuple[Summary, Summary], values: tuple[dict[int, float], dict[int, float]]
) -> tuple[float, float] | None:
    """Return the difference and what noise explains of it; None where that is not known."""
    one, other = (side.spreads[column] for side in sides)
    if len(values[0]) > 1 and values[0].keys() == values[1].keys():
        return paired(values[1][seed] - value for seed, value in values[0].items())
    judged = welch(one, other)
    if judged is None and _kind(column) == "score":
        errors = (side.mean(f"{column}_standard_error") for side in sides)
        known = [half for half in (over_examples(*errors), lent(one, other)) if half is not None]
        return (other.mean - one.mean, max(known)) if known else None
    return judged
