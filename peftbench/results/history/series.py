"""One series per cell and quantity: the mean over the ok seeds of each night, apart where numbers do not compare."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from peftbench.results.busy_machine import MOST_WAITING, waiting_share
from peftbench.results.history.nights import Night, Row
from peftbench.results.rows import is_number
from peftbench.results.settings import settings_of
from peftbench.results.watch.quantities import FIXED, STATUS, Quantity, is_score, score

_DERIVED = ("prefill_times_base", "decode_times_base")
"""Quantities that are no columns: ``compare`` judges them, a history does not have them."""
COLUMNS_ONLY = tuple(quantity for quantity in FIXED if quantity.name not in _DERIVED)
_MACHINE = ("cpu", "cpu_count", "cpus_available", "gpus")
"""Parts of the environment that make another machine of it. Versions of packages do not: they are what is watched."""
_TIMES = ("threads", "workers")
_READ = ("train_waiting_seconds", "train_seconds", "other_gpu_processes", "device", "settings_json", "scores_json")
COLUMNS = frozenset(
    {quantity.name for quantity in COLUMNS_ONLY}
    | {name for quantity in FIXED for name in quantity.same}
    | {*score("").same, *_TIMES, *_READ, "environment_json"}
)
"""Columns of rows that a history reads."""


@dataclass(frozen=True)
class Point:
    """One night of a series."""

    night: int
    """Index of the night."""
    value: float
    """Mean over seeds, in the quantity's unit."""
    seeds: int


@dataclass(frozen=True)
class Series:
    """A quantity of one cell, night after night, as far as its numbers compare with each other."""

    base: str
    cell: str
    quantity: Quantity
    conditions: tuple[tuple[str, str], ...]
    """Names and values of what is equal on all its nights and must be, for numbers to compare."""
    exact: bool
    """Whether a repetition by the same code should give the same number on this device."""
    points: tuple[Point, ...]

    @property
    def values(self) -> list[float]:
        """One value per point."""
        return [point.value for point in self.points]

    @property
    def repeats(self) -> bool:
        """Whether its nights do give the same number, most of the time."""
        if not self.exact or len(self.points) < 2:
            return self.exact
        equal = sum(one.value == other.value for one, other in itertools.pairwise(self.points))
        return 2 * equal >= len(self.points) - 1

    @property
    def key(self) -> tuple[str, str]:
        """Base model and cell."""
        return self.base, self.cell


def series_of(nights: Sequence[Night], kinds: Iterable[str] | None = None) -> list[Series]:
    """Return all series of all cells, in the order of the newest night's cells.

    Args:
        nights: the oldest first.
        kinds: kinds of quantities; None for all.
    """
    wanted = None if kinds is None else set(kinds)
    found: dict[Series, list[Point]] = {}
    for place, night in enumerate(nights):
        for (base, cell), rows in night.cells.items():
            for quantity, conditions, exact, value, seeds in _measured(rows):
                if wanted is None or quantity.kind in wanted:
                    series = Series(base, cell, quantity, conditions, exact, ())
                    found.setdefault(series, []).append(Point(place, value, seeds))
    order = {cell: place for place, cell in enumerate(_cells(nights))}
    made = [replace(series, points=tuple(points)) for series, points in found.items()]
    return sorted(made, key=lambda each: order[each.key])


def _cells(nights: Sequence[Night]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(cell for night in reversed(nights) for cell in night.cells))


Measured = tuple[Quantity, tuple[tuple[str, str], ...], bool, float, int]


def _measured(rows: Sequence[Row]) -> Iterator[Measured]:
    """Yield what one cell has measured in a night: quantity, conditions, whether exact, mean over seeds, seeds."""
    ok = [row for row in rows if row["status"] == "ok"]
    yield STATUS, (), True, len(ok) / len(rows), len(rows)
    if not ok:
        return
    first = ok[0]
    scores = [score(name.removeprefix("score_")) for name in first if is_score(name)]
    for quantity in (*scores, *COLUMNS_ONLY):
        used = [row for row in ok if not _void(row)] if quantity.kind == "speed" else ok
        values = [row.get(quantity.name) for row in used]
        known = [float(value) for value in values if is_number(value)]  # type: ignore[arg-type]
        if known:
            exact = str(first["device"]) in quantity.exact_on
            yield quantity, _conditions(quantity, used[0]), exact, sum(known) / len(known), len(known)


def _void(row: Row) -> bool:
    """Whether a trial's times do not count, because other work kept its machine busy."""
    share, others = waiting_share(row), row["other_gpu_processes"]
    return (share is not None and share > MOST_WAITING) or bool(is_number(others) and others > 0)


def _conditions(quantity: Quantity, row: Row) -> tuple[tuple[str, str], ...]:
    """Return what must be equal for values to compare, of one row for all seeds of its cell."""
    found = [(name, str(row[name])) for name in quantity.same if row.get(name) is not None]
    if quantity.kind in ("speed", "inference"):
        found += [(name, str(row[name])) for name in _TIMES if row.get(name) is not None]
        found += _machine(row["environment_json"])
    if quantity.kind == "score":
        task = quantity.name.removeprefix("score_")
        found += [*_metric(row["scores_json"], task), *_split(row["settings_json"])]
    return tuple(found)


@cache
def _machine(text: str | None) -> tuple[tuple[str, str], ...]:
    known = _object(text)
    return tuple((name, json.dumps(known[name])) for name in _MACHINE if known.get(name) is not None)


@cache
def _split(text: str | None) -> tuple[tuple[str, str], ...]:
    try:
        split = settings_of(text or "{}").get("evaluation.split")
    except (ValueError, AttributeError):
        return ()
    return () if split is None else (("evaluation.split", str(split)),)


def _metric(text: str | None, task: str) -> tuple[tuple[str, str], ...]:
    found = _object(text).get(task)
    metric = found.get("metric") if isinstance(found, dict) else None
    return () if metric is None else (("metric", str(metric)),)


def _object(text: str | None) -> dict[str, Any]:
    try:
        found = json.loads(text or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
