"""Means and intervals over seeds, one summary per cell of the grid.

The estimand is the mean **over seeds only**: what the same cell would give on average with new seeds, on the same
examples and the same machine. For new examples as well see ``crossed_effects``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, get_type_hints

from peftbench.errors import UserError
from peftbench.records import TrialRow
from peftbench.results.rows import is_number
from peftbench.results.settings import settings_of

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
SAME_IN_TABLE = ("device", "memory_kind", "protocol")
"""Columns that must be equal in all rows of a table, because numbers are not comparable otherwise."""
SAME_IN_CELL = ("base_sha256", "data_sha256")
"""Columns that must be equal in all seeds of a cell, besides the settings."""
SETTINGS = frozenset(
    {"rank", "seed", "learning_rate", "batch_size", "micro_batch_size", "sequence_length"}
    | {"threads", "workers", "protocol", "schema_version"}
)
"""Numeric columns that are chosen, not measured."""
SCORE_PREFIXES = ("score_", "chance_", "majority_")
"""How the columns begin that each evaluated task adds."""


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
    """Half width of the 95 % t-interval of the mean over seeds; None for fewer than two seeds."""


@dataclass(frozen=True)
class Summary:
    """A cell of the grid over its seeds. Means are of ``ok`` rows only."""

    base: str
    cell: str
    method: str
    precision: str
    rank: int | None
    counts: Mapping[str, int]
    """Number of seeds by status, ``ok`` first. The untuned base model, which has no seed, counts once."""
    reasons: tuple[str, ...]
    """Why rows are not ok, each reason once."""
    messages: tuple[str, ...]
    """For each of these reasons, the message of the first row that has it."""
    spreads: Mapping[str, Spread]
    """Spread of each measured column; columns that no row measured are missing."""

    @property
    def ok(self) -> int:
        """How many seeds enter the means."""
        return self.counts.get("ok", 0)

    def mean(self, column: str) -> float | None:
        """Return the mean of a column over the ok seeds, None if none measured it."""
        spread = self.spreads.get(column)
        return None if spread is None else spread.mean


def summarize(trials: pd.DataFrame) -> list[Summary]:
    """Return one summary per cell (over seeds), in the order of the rows.

    Args:
        trials: rows as ``peftbench.results.store.read_trials`` returns them, or a selection of them. A folder may hold
            a cell and seed twice, with older settings; see ``rows.rows_of_grid``.

    Raises:
        UserError: if rows are not comparable (another device, kind of memory figure or protocol) or the seeds of a cell
            differ in more than the seed; the message names what differs and both values.
    """
    measured = measured_columns(trials.columns)
    needed = dict.fromkeys(["base", "cell", "method", "precision", "rank", "seed", "status", "settings_json"])
    needed |= dict.fromkeys(["reason", "message", *SAME_IN_TABLE, *SAME_IN_CELL, *measured])
    columns = [trials[name].tolist() for name in needed]  # by columns, as slicing a wide frame per cell is slow
    rows = [dict(zip(needed, values, strict=True)) for values in zip(*columns, strict=True)]
    _check_equal((row for row in rows if row["status"] == "ok"), SAME_IN_TABLE, "these results")
    cells: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["base"], row["cell"]), []).append(row)
    return [_summarize_cell(base, cell, found, measured) for (base, cell), found in cells.items()]


def measured_columns(names: Iterable[str]) -> list[str]:
    """Return the numeric columns that were measured rather than chosen, the tasks' score columns included."""
    fixed = get_type_hints(TrialRow)
    numeric = {name for name, hint in fixed.items() if hint in (int, float, int | None, float | None)} - SETTINGS
    return [name for name in names if name in numeric or (name not in fixed and name.startswith(SCORE_PREFIXES))]


def spread_of(values: Iterable[Any]) -> Spread | None:
    """Return mean, standard deviation and interval of the finite values; None if there are none."""
    found = [float(value) for value in values if is_number(value)]
    n = len(found)
    if not n:
        return None
    mean = math.fsum(found) / n
    if n < 2:
        return Spread(n, mean, None, mean, mean, None)
    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in found) / (n - 1))
    return Spread(n, mean, sd, min(found), max(found), _t_quantile(n - 1) * sd / math.sqrt(n))


def welch_interval(old: Spread, new: Spread) -> tuple[float, float] | None:
    """Return the difference of two means and the half width of its 95 % interval (Welch's t over seeds).

    None if one of them has fewer than two seeds, so that its standard deviation is unknown.
    """
    if old.sd is None or new.sd is None:
        return None
    from peftbench.results.crossed_effects.student import welch_half_width  # imports scipy, as below

    half = welch_half_width(old.sd**2 / old.n, new.sd**2 / new.n, (old.n - 1, new.n - 1))
    return new.mean - old.mean, float(half)


def paired_interval(differences: Iterable[Any]) -> tuple[float, float] | None:
    """Return the mean of differences between the same seeds and the half width of its 95 % t-interval.

    None for fewer than two differences.
    """
    found = spread_of(differences)
    return None if found is None or found.half_width is None else (found.mean, found.half_width)


def half_width_from_one_side(old: Spread, new: Spread) -> float | None:
    """Return the half width of the 95 % interval of a difference if one side has a single seed.

    The standard deviation over seeds of the other side is then taken for both. None if neither side has one.
    """
    known = old if old.sd is not None else new
    if known.sd is None:
        return None
    return _t_quantile(known.n - 1) * known.sd * math.sqrt(1 / old.n + 1 / new.n)


def half_width_over_examples(old_error: float | None, new_error: float | None) -> float | None:
    """Return the half width of the 95 % interval of a difference of two scores.

    Args:
        old_error: standard error of one score over its examples; None if the metric has none.
        new_error: that of the other score.
    """
    if old_error is None or new_error is None:
        return None
    return NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * math.hypot(old_error, new_error)


@cache
def _t_quantile(degrees_of_freedom: float) -> float:
    from peftbench.results.crossed_effects.student import (
        t_quantile,  # imports scipy, which commands like plan do without
    )

    return t_quantile(degrees_of_freedom)


def _summarize_cell(base: str, cell: str, rows: Sequence[Mapping[str, Any]], measured: Sequence[str]) -> Summary:
    ok = [row for row in rows if row["status"] == "ok"]
    _check_one_setting(cell, rows, ok)
    spreads = {name: spread_of(row[name] for row in ok) for name in measured}
    counts = Counter(row["status"] for row in rows)
    first = rows[0]
    return Summary(
        base,
        cell,
        first["method"],
        first["precision"],
        int(first["rank"]) if is_number(first["rank"]) else None,
        {status: counts[status] for status in sorted(counts, key=lambda name: (name != "ok", name))},
        *_reasons(row for row in rows if row["status"] != "ok" and not _is_null(row["message"])),
        {name: found for name, found in spreads.items() if found is not None},
    )


def _reasons(rows: Iterable[Mapping[str, Any]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the different reasons of rows that are not ok, and the message of the first row with each."""
    first: dict[str | None, Mapping[str, Any]] = {}
    for row in rows:
        first.setdefault(None if _is_null(row["reason"]) else row["reason"], row)
    return tuple(row["reason"] for row in first.values()), tuple(row["message"] for row in first.values())


def _check_one_setting(cell: str, rows: Sequence[Mapping[str, Any]], ok: Sequence[Mapping[str, Any]]) -> None:
    """Refuse to pool rows of a cell that differ in more than the seed."""
    settings = [settings_of(text) for text in dict.fromkeys(row["settings_json"] for row in ok)]
    for other in settings[1:]:
        for name in sorted(settings[0].keys() | other.keys()):
            if settings[0].get(name) != other.get(name):
                raise UserError(_not_comparable(cell, name, settings[0].get(name), other.get(name)))
    _check_equal(ok, SAME_IN_CELL, cell)
    if len({-1 if _is_null(row["seed"]) else row["seed"] for row in rows}) < len(rows):
        raise UserError(f"{cell}: a seed has two rows; select the latest first (peftbench.results.rows.latest_rows)")


def _check_equal(rows: Iterable[Mapping[str, Any]], names: Sequence[str], where: str) -> None:
    found: dict[str, dict[Any, None]] = {name: {} for name in names}
    for row in rows:
        for name, values in found.items():
            values[row[name]] = None
    for name, values in found.items():
        known = [value for value in values if not _is_null(value)]
        if len(known) > 1:
            raise UserError(_not_comparable(where, name, known[0], known[1]))


def _is_null(value: Any) -> bool:
    """Return whether a value of a row is None, not-a-number or pandas' NA."""
    return not isinstance(value, str | int | float) or value != value


def _not_comparable(where: str, name: str, one: object, other: object) -> str:
    return (
        f"{where}: rows with different {name} are not comparable ({one!s} and {other!s}); "
        "finish the run that changed it, or give each its own results folder"
    )
