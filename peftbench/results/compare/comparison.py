"""Compare two results folders cell by cell: what changed, whether noise explains it, and what else was different.

Every difference is judged by a 95 % interval:

- Scores of several seeds, if both sides store the outcomes of the same examples: the crossed random-effects model of
  seeds and examples (``peftbench.results.crossed_effects``), with seeds paired if both sides have the same ones.
- All other columns: the t-interval of the differences seed by seed if both sides have the same seeds, else Welch's.
- A score of a single seed: the wider of two intervals, from its error over examples and from the other side's spread
  over seeds.

The untuned base model has no seed and no noise: any difference counts. Columns that are not comparable, because the
protocol or the machine is another one, are not compared, and the column that differs is named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from peftbench.errors import UserError
from peftbench.results.busy_machine import BusyTrials, busy_trials
from peftbench.results.compare.differences import (
    Cell,
    Difference,
    changed_environment,
    changed_metrics,
    changed_settings,
    refusals,
    scored_apart,
)
from peftbench.results.compare.examples import Stored, score_difference
from peftbench.results.rows import rows_of_grid
from peftbench.results.seeds import (
    Spread,
    Summary,
    half_width_from_one_side,
    half_width_over_examples,
    paired_interval,
    summarize,
    welch_interval,
)
from peftbench.results.store import read_trials, recorded_grid

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["same", "within noise", "beyond noise", "no spread known", "differs"]

MEASURED = ("peak_train_bytes", "tokens_per_second")
"""Memory and speed, which depend on the machine."""
SIZES = ("checkpoint_bytes", "trainable_parameters")
"""Columns that do not vary between seeds, so that every difference counts."""
NEEDS: Mapping[str, tuple[str, ...]] = {
    "score": ("protocol",),
    "peak_train_bytes": ("protocol", "device", "memory_kind"),
    "tokens_per_second": ("protocol", "device", "threads", "workers"),
    "checkpoint_bytes": (),
    "trainable_parameters": (),
}
"""For each compared column, the columns that must be equal on both sides."""


@dataclass(frozen=True)
class Change:
    """One column of one cell on both sides."""

    column: str
    old: Spread | None
    """None if the old side did not measure it."""
    new: Spread | None
    verdict: Verdict | None
    """None if one side did not measure it."""

    @property
    def difference(self) -> float | None:
        """New mean minus old mean."""
        return None if self.old is None or self.new is None else self.new.mean - self.old.mean

    @property
    def fell(self) -> bool:
        """Whether this is a score that fell by more than noise explains."""
        return self.judged and self.verdict in ("beyond noise", "differs") and (self.difference or 0) < 0

    @property
    def judged(self) -> bool:
        """Whether this is a score that both sides have and whose noise is known."""
        return self.column.startswith("score_") and self.verdict not in (None, "no spread known")


@dataclass(frozen=True)
class CellChange:
    """One cell that both folders have."""

    old: Summary
    new: Summary
    changes: tuple[Change, ...]
    refused: Difference | None = None
    """Why its scores are not compared: what differs; None if they are compared."""
    metrics: tuple[Difference, ...] = ()
    """Tasks whose scores are not compared since they have other metrics, each with the metrics of both sides."""

    @property
    def cell(self) -> str:
        """The cell's name."""
        return self.new.cell

    @property
    def broke(self) -> bool:
        """Whether a smaller share of its seeds is ok than before."""
        was, now = (side.ok / max(1, sum(side.counts.values())) for side in (self.old, self.new))
        return now < was

    @property
    def same(self) -> bool:
        """Whether everything was compared and nothing changed."""
        alike = self.old.counts == self.new.counts and self.refused is None and not self.metrics
        return alike and all(change.verdict == "same" for change in self.changes)


@dataclass(frozen=True)
class Contents:
    """What a folder holds results of."""

    suites: tuple[str, ...] = ()
    bases: tuple[str, ...] = ()


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
    """Columns that were not compared in any cell (``score`` stands for all scores), each with what differs."""
    excluded: tuple[int, int] = (0, 0)
    """Number of stored rows, old and new, that are not part of the folder's recorded grid."""
    contents: tuple[Contents, Contents] = (Contents(), Contents())
    """What old and new hold results of."""
    busy: tuple[BusyTrials | None, BusyTrials | None] = (None, None)
    """Trials of old and new whose times were measured on a busy machine; None if there are none."""

    @property
    def unrelated(self) -> bool:
        """Whether these are results of different suites or base models without a common cell."""
        return self.contents[0] != self.contents[1] and not self.cells

    @property
    def regressed(self) -> bool:
        """Whether a score fell by more than noise explains, or a smaller share of a cell's seeds is ok."""
        return any(cell.broke or any(change.fell for change in cell.changes) for cell in self.cells)

    @property
    def verdict(self) -> bool | None:
        """False if something regressed, True if scores were judged and none fell, None if no score could be judged.

        The command exits with 0 only for True.
        """
        if self.regressed:
            return False
        return True if any(change.judged for cell in self.cells for change in cell.changes) else None


def compare(old_folder: Path | str, new_folder: Path | str) -> Comparison:
    """Return what changed from one results folder to another.

    Cells are matched by base model and name. Only rows of a folder's recorded grid count, or the latest row of each
    seed if no grid was recorded. A cell that only one folder has is listed and is no regression, because suites grow
    and shrink and ``--only`` selects. Verdicts are not corrected for their number: if many cells were trained again
    with other random numbers, some will be "beyond noise" by chance. Unchanged code gives the same numbers and the
    verdict "same".

    Raises:
        UserError: if a folder holds no results, or rows of one folder are not comparable with each other.
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
        (sides[0].excluded, sides[1].excluded),
        (sides[0].contents, sides[1].contents),
        (busy_trials(old), busy_trials(new)),
    )


@dataclass(frozen=True)
class _Side:
    """One results folder."""

    trials: pd.DataFrame
    summaries: Mapping[Cell, Summary]
    excluded: int
    stored: Stored

    @classmethod
    def read(cls, folder: Path) -> _Side:
        stored, grid = read_trials(folder), recorded_grid(folder)
        try:
            trials = rows_of_grid(stored, grid.keys if grid else None)
            summaries = {(s.base, s.cell): s for s in summarize(trials)}
            return cls(trials, summaries, len(stored) - len(trials), Stored(folder, trials))
        except UserError as error:
            raise UserError(f"{folder}: {error}") from error

    @property
    def contents(self) -> Contents:
        """What the rows are results of."""
        suites, bases = (tuple(map(str, self.trials[name].unique())) for name in ("suite", "base"))
        return Contents(suites, bases)

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
    refused, metrics = scored_apart(old[1], new[1]), changed_metrics(old[1], new[1])
    apart = {f"score_{each.name}" for each in metrics}
    changes = []
    for column in columns:
        if (refused is not None and _kind(column) == "score") or column in apart:
            continue
        one, other = old[0].spreads.get(column), new[0].spreads.get(column)
        if one is not None or other is not None:
            changes.append(Change(column, one, other, _verdict(column, old, new, stored)))
    return CellChange(old[0], new[0], tuple(changes), refused, metrics)


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
    judged = score_difference(column, (old[0].base, old[0].cell), stored, paired=bool(paired_up))
    judged = judged or _interval(column, (old[0], new[0]), (values[0], values[1]))
    if judged is None:
        return "no spread known"
    difference, half_width = judged
    return "within noise" if abs(difference) <= half_width else "beyond noise"


def _by_seed(rows: pd.DataFrame, column: str) -> dict[int, float]:
    """Return a column's values by seed, without null values and rows without a seed."""
    known = rows[["seed", column]].dropna()
    return {int(seed): float(value) for seed, value in known.itertuples(index=False)}


def _ends(spread: Spread) -> tuple[float, float, float]:
    return spread.mean, spread.minimum, spread.maximum


def _interval(
    column: str, sides: tuple[Summary, Summary], values: tuple[dict[int, float], dict[int, float]]
) -> tuple[float, float] | None:
    """Return the difference and the half width of its 95 % interval; None if the noise is unknown."""
    one, other = (side.spreads[column] for side in sides)
    if len(values[0]) > 1 and values[0].keys() == values[1].keys():
        return paired_interval(values[1][seed] - value for seed, value in values[0].items())
    judged = welch_interval(one, other)
    if judged is None and _kind(column) == "score":
        errors = (side.mean(f"{column}_standard_error") for side in sides)
        halves = (half_width_over_examples(*errors), half_width_from_one_side(one, other))
        known = [half for half in halves if half is not None]
        return (other.mean - one.mean, max(known)) if known else None
    return judged
