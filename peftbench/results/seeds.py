"""Means and intervals over seeds, one summary per cell of the grid.

The estimand of this first version is the mean **over seeds only**: what the same cell would give on average with new
seeds, on the same examples and the same machine. The spread says nothing about new examples, other data or other
models.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, get_type_hints

from peftbench.errors import UserError
from peftbench.methods import late_defaults
from peftbench.records import TrialRow

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
MOST_WAITING = 0.05
"""Largest share of training's thread-seconds spent waiting for a CPU at which times are trusted. Trials alone on the
machine waited for 0.4 to 2.2 % (the committed quickstarts), those beside another job on their cores for a third and
more."""
NEVER_POOLED = ("device", "memory_kind", "protocol")
"""Columns that must be equal in all rows of one table: their numbers do not compare otherwise."""
SAME_IN_CELL = ("base_sha256", "data_sha256")
"""Columns that must be equal in all seeds of a cell, next to the settings."""
SETTINGS = frozenset(
    {"rank", "seed", "learning_rate", "batch_size", "micro_batch_size", "sequence_length"}
    | {"threads", "workers", "protocol", "schema_version"}
)
"""Numeric columns that are chosen, not measured."""
SCORE_PREFIXES = ("score_", "chance_", "majority_")
"""How the names of the columns begin that each evaluated task adds."""


@dataclass(frozen=True)
class Spread:
    """One measured column over the seeds of a cell."""

    n: int
    """Seeds that have a value."""
    mean: float
    sd: float | None
    """Standard deviation with n - 1; None for fewer than two seeds."""
    minimum: float
    maximum: float
    half_width: float | None
    """Of the 95 % t-interval of the mean over seeds; None for fewer than two seeds."""


@dataclass(frozen=True)
class Summary:
    """A cell of the grid over its seeds. Means are of ``ok`` rows only."""

    base: str
    cell: str
    method: str
    precision: str
    rank: int | None
    counts: Mapping[str, int]
    """Seeds (one for the untuned base, which has none) by status, ``ok`` first."""
    reasons: tuple[str, ...]
    """Why rows are not ok, each reason once."""
    messages: tuple[str, ...]
    """The message of the first row with each of these reasons."""
    spreads: Mapping[str, Spread]
    """Measured column to its spread; columns that no row measured are absent."""

    @property
    def ok(self) -> int:
        """How many seeds enter the means."""
        return self.counts.get("ok", 0)

    @property
    def statuses(self) -> str:
        """All seeds by status, in words: ``2 ok, 1 oom``."""
        return ", ".join(f"{count} {status}" for status, count in self.counts.items())

    def mean(self, column: str) -> float | None:
        """Return the mean of a column over the ok seeds, None where none measured it."""
        spread = self.spreads.get(column)
        return None if spread is None else spread.mean


def summarize(trials: pd.DataFrame) -> list[Summary]:
    """Return one summary per cell (over seeds), in the order of the rows.

    Args:
        trials: as ``peftbench.results.store.read_trials`` gives it, or a selection of its rows; see ``latest`` for folders
            that hold the same trial with older settings too.

    Raises:
        UserError: if the numbers do not compare (another device, kind of memory figure or protocol) or a cell's seeds
            differ in more than the seed; it names what differs and both values.
    """
    measured = measured_columns(trials.columns)
    _check_equal(trials[trials["status"] == "ok"], NEVER_POOLED, "these results")
    return [
        _summarize_cell(base, cell, rows, measured)
        for (base, cell), rows in trials.groupby(["base", "cell"], sort=False)
    ]


def latest(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the rows without those that a later row of the same base, cell and seed stands for.

    A folder holds such pairs after a setting was changed in the suite and the suite was run again.
    """
    order = trials["finished_at"].fillna("").argsort(kind="stable")
    kept = trials.iloc[order].drop_duplicates(["base", "cell", "seed"], keep="last").index
    return trials[trials.index.isin(kept)]


def choose(trials: pd.DataFrame, keys: Sequence[str] | None) -> pd.DataFrame:
    """Return the rows that a folder is about: those of its recorded grid, in its order.

    Args:
        trials: all rows of the folder.
        keys: of the recorded grid; None where there is no record, which leaves the ``latest`` rows.

    Raises:
        UserError: if none of the grid's trials has a row.
    """
    if keys is None:
        return latest(trials)
    places = {key: place for place, key in enumerate(keys)}
    chosen = trials[trials["key"].isin(places)]
    if not len(chosen):
        raise UserError(
            f"none of the {len(places)} trials that were last asked for has a result yet, only {len(trials)} of other "
            "settings: run the suite again"
        )
    return chosen.iloc[chosen["key"].map(places).argsort(kind="stable")]


def measured_columns(names: Iterable[str]) -> list[str]:
    """Return the numeric columns that were measured rather than chosen, the tasks' score columns included."""
    fixed = get_type_hints(TrialRow)
    numeric = {name for name, hint in fixed.items() if hint in (int, float, int | None, float | None)} - SETTINGS
    return [name for name in names if name in numeric or (name not in fixed and name.startswith(SCORE_PREFIXES))]


def spread(values: Iterable[Any]) -> Spread | None:
    """Return mean, spread and interval of the values that are present and finite; None where there are none."""
    found = [float(value) for value in values if present(value)]
    n = len(found)
    if not n:
        return None
    mean = math.fsum(found) / n
    if n < 2:
        return Spread(n, mean, None, mean, mean, None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in found) / (n - 1))
    return Spread(n, mean, sd, min(found), max(found), t_quantile(n - 1) * sd / math.sqrt(n))


def t_quantile(degrees_of_freedom: float) -> float:
    """Return the factor of a two-sided 95 % interval under Student's t."""
    # scipy.stats has the same number, after a second of importing
    from scipy.special import stdtrit  # type: ignore[import-untyped]

    return float(stdtrit(degrees_of_freedom, 0.5 + CONFIDENCE / 2))


def welch(old: Spread, new: Spread) -> tuple[float, float] | None:
    """Return the difference of two means and the half width of its 95 % interval (Welch's t, seeds as the unit).

    None where one of them has fewer than two seeds, so that its spread is not known.
    """
    if old.sd is None or new.sd is None:
        return None
    parts = [(side.sd or 0.0) ** 2 / side.n for side in (old, new)]
    variance = sum(parts)
    if variance == 0:
        return new.mean - old.mean, 0.0
    freedom = variance**2 / sum(part**2 / (side.n - 1) for part, side in zip(parts, (old, new), strict=True))
    return new.mean - old.mean, t_quantile(freedom) * math.sqrt(variance)


def paired(differences: Iterable[Any]) -> tuple[float, float] | None:
    """Return the mean of differences of the same seeds and the half width of its 95 % t-interval.

    None for fewer than two.
    """
    found = spread(differences)
    return None if found is None or found.half_width is None else (found.mean, found.half_width)


def lent(old: Spread, new: Spread) -> float | None:
    """Return the half width of a 95 % interval of the difference where one side's spread over seeds stands for both.

    None where neither side has one. A single seed says nothing of its own spread, but it is a draw from some.
    """
    known = old if old.sd is not None else new
    if known.sd is None:
        return None
    return t_quantile(known.n - 1) * known.sd * math.sqrt(1 / old.n + 1 / new.n)


def over_examples(old_error: float | None, new_error: float | None) -> float | None:
    """Return the half width of a 95 % interval of the difference of two scores, from their errors over examples."""
    if old_error is None or new_error is None:
        return None
    return NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * math.hypot(old_error, new_error)


def waiting_share(row: Mapping[str, Any], of: str = "train") -> float | None:
    """Return the share of a phase's thread-seconds in which a trial's threads waited for a CPU; None if not known.

    Args:
        row: of ``trials``.
        of: ``train`` or ``inference``.
    """
    waiting, seconds, threads = (row.get(name) for name in (f"{of}_waiting_seconds", f"{of}_seconds", "threads"))
    if not (present(waiting) and present(seconds) and present(threads)) or not seconds:
        return None
    # on a GPU one thread does all the work
    return float(waiting / (seconds * (threads if row.get("device") == "cpu" else 1)))  # type: ignore[operator]


def unlearned(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the finished, tuned trials whose loss did not fall: the mean of the last steps is not below the first.

    Derived here, not a status: what a loss should do in how many steps is the reader's to say.
    """
    return trials[(trials["status"] == "ok") & (trials["last_loss"] >= trials["first_loss"])]


def untrusted_times(trials: pd.DataFrame, of: str = "train") -> str | None:
    """Return one sentence about the ok trials that were measured on a busy machine; None where none is known to be.

    Args:
        trials: rows.
        of: ``train`` or ``inference``.
    """
    names = [name for name in (f"{of}_waiting_seconds", f"{of}_seconds", "threads", "device") if name in trials]
    shares = [waiting_share(row, of) for row in trials.loc[trials["status"] == "ok", names].to_dict("records")]
    known = [share for share in shares if share is not None]
    high = [share for share in known if share > MOST_WAITING]
    if not high:
        return None
    which = f"{len(high)} of {len(known)} trial{'s' * (len(known) > 1)}"
    what = "Times" if of == "train" else "Rates and latencies"
    return (
        f"{what} of {which} were measured on a busy machine (threads waited for a CPU in up to "
        f"{100 * max(high):.0f} % of their time): do not trust them."
    )


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level with dotted names, records of a list by their names.

    ``{"train": {"steps": 30}, "tasks": [{"name": "judge", "limit": 9}]}`` becomes
    ``{"train.steps": 30, "tasks.judge.name": "judge", "tasks.judge.limit": 9}``.
    """
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, list) and value and all(isinstance(one, Mapping) and "name" in one for one in value):
            value = {one["name"]: one for one in value}
        inner = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{name}.") if inner else {f"{prefix}{name}": value}
    return flat


def settings_of(row_json: str) -> dict[str, Any]:
    """Return a row's settings, flat, without the seed; options that came after the row have the default it had."""
    nested = json.loads(row_json)
    late = late_defaults(str(nested.get("method")))
    nested |= {"options": late | nested["options"]} if late and "options" in nested else {}
    flat = flatten(nested)
    return {name: value for name, value in flat.items() if name.rpartition(".")[2] != "seed"}


def _summarize_cell(base: str, cell: str, rows: pd.DataFrame, measured: Sequence[str]) -> Summary:
    ok = rows[rows["status"] == "ok"]
    _check_one_setting(cell, rows, ok)
    spreads = {name: spread(ok[name]) for name in measured}
    counts = rows["status"].value_counts()
    first = rows.iloc[0]
    return Summary(
        base,
        cell,
        first["method"],
        first["precision"],
        int(first["rank"]) if present(first["rank"]) else None,
        {status: int(counts[status]) for status in sorted(counts.index, key=lambda name: (name != "ok", name))},
        *_reasons(rows[(rows["status"] != "ok") & rows["message"].notna()]),
        {name: found for name, found in spreads.items() if found is not None},
    )


def _reasons(rows: pd.DataFrame) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the different reasons of rows that are not ok, and the message of the first row with each."""
    first = rows.drop_duplicates("reason")
    return tuple(first["reason"]), tuple(first["message"])


def _check_one_setting(cell: str, rows: pd.DataFrame, ok: pd.DataFrame) -> None:
    """Refuse to pool rows of a cell that differ in more than the seed."""
    settings = [settings_of(text) for text in ok["settings_json"]]
    for other in settings[1:]:
        for name in sorted(settings[0].keys() | other.keys()):
            if settings[0].get(name) != other.get(name):
                raise UserError(_differs(cell, name, settings[0].get(name), other.get(name)))
    _check_equal(ok, SAME_IN_CELL, cell)
    if rows["seed"].fillna(-1).duplicated().any():
        raise UserError(
            f"{cell}: a seed is there twice; summarize only the latest rows (peftbench.results.seeds.latest)"
        )


def _check_equal(rows: pd.DataFrame, names: Iterable[str], where: str) -> None:
    for name in names:
        values = list(rows[name].dropna().unique())
        if len(values) > 1:
            raise UserError(_differs(where, name, values[0], values[1]))


def _differs(where: str, name: str, one: object, other: object) -> str:
    return (
        f"{where}: rows with different {name} do not compare ({one!s} and {other!s}); "
        "finish the run that changed it, or give each its own results folder"
    )


def present(value: Any) -> bool:
    """Whether a cell of a table holds a finite number: null and not-a-number are no measurement."""
    try:
        return math.isfinite(value)
    except TypeError:  # None and pandas.NA
        return False
