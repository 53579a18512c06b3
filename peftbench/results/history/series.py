"""One series per cell and quantity: the mean over the ok seeds of each night, apart where numbers do not compare.

Memory and sizes are means over the seeds that all nights of a series have: a night with other seeds has other batches,
and its mean would differ without a change. A night that has none of them begins another series. What a night does not
know (a column of a later version) does not set it apart.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from peftbench.results.busy_machine import is_void
from peftbench.results.history.nights import Night, Row
from peftbench.results.rows import is_number
from peftbench.results.settings import settings_of
from peftbench.results.watch.quantities import FIXED, STATUS, Quantity, Seed, is_score, score

_DERIVED = ("prefill_times_base", "decode_times_base")
"""Quantities that are no columns: ``compare`` judges them, a history does not have them."""
COLUMNS_ONLY = tuple(quantity for quantity in FIXED if quantity.name not in _DERIVED)
_MACHINE = ("cpu", "cpu_count", "cpus_available")
"""Parts of the environment that make another machine of it, and so do ``_GPU``. Versions of packages and of the driver
do not: they are what is watched."""
_GPU = ("name", "memory.total")
"""What makes another one of a GPU."""
_BY_SEED = ("memory", "size")
"""Kinds of which numbers of different seeds do not compare exactly."""
_TIMES = ("threads", "workers")
_READ = (
    "reference_step_seconds",
    "train_waiting_seconds",
    "train_seconds",
    "other_gpu_processes",
    "device",
    "settings_json",
    "scores_json",
)
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
    by_seed: tuple[tuple[Seed, float], ...] = ()
    """The values, where only means over the same seeds compare."""
    by_reference: tuple[str, float] | None = None
    """Of speed: torch's version, and the mean over seeds of tokens per reference step; None if that was not timed."""


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
    found: dict[tuple[str, str, Quantity, bool], list[_Group]] = {}
    for place, night in enumerate(nights):
        for (base, cell), rows in night.cells.items():
            for quantity, conditions, exact, values in _measured(rows):
                if wanted is None or quantity.kind in wanted:
                    own = tuple(values.items()) if quantity.kind in _BY_SEED else ()
                    mean = sum(values.values()) / len(values)
                    groups = found.setdefault((base, cell, quantity, exact), [])
                    clocked = _by_reference(rows, values) if quantity.kind == "speed" else None
                    _add(groups, dict(conditions), Point(place, mean, len(values), own, clocked))
    order = {cell: place for place, cell in enumerate(_cells(nights))}
    made = [
        Series(base, cell, quantity, tuple(conditions.items()), exact, own)
        for (base, cell, quantity, exact), groups in found.items()
        for conditions, points in groups
        for own in _of_same_seeds(points)
    ]
    return sorted(made, key=lambda each: order[each.key])


_Group = tuple[dict[str, str], list[Point]]
"""Conditions as far as they are known, and the points that have them."""


def _add(groups: list[_Group], conditions: dict[str, str], point: Point) -> None:
    """Add a point to the group with its conditions, of several the one with the latest night, else to a new one."""
    fitting = [
        group for group in groups if all(group[0].get(name, value) == value for name, value in conditions.items())
    ]
    if not fitting:
        groups.append((conditions, [point]))
        return
    latest = max(fitting, key=lambda group: group[1][-1].night)
    latest[0].update(conditions)
    latest[1].append(point)


def _of_same_seeds(points: Sequence[Point]) -> list[tuple[Point, ...]]:
    """Return points as one series or several, each with the means over the seeds that all of its nights have."""
    if not all(point.by_seed for point in points):
        return [tuple(points)]
    groups: list[tuple[set[Seed], list[Point]]] = []
    for point in points:
        seeds = {seed for seed, _ in point.by_seed}
        place = next((place for place, (known, _) in enumerate(groups) if known & seeds), None)
        if place is None:
            groups.append((seeds, [point]))
        else:
            groups[place] = groups[place][0] & seeds, [*groups[place][1], point]
    return [tuple(_over(point, seeds) for point in own) for seeds, own in groups]


def _over(point: Point, seeds: set[Seed]) -> Point:
    values = [value for seed, value in point.by_seed if seed in seeds]
    return replace(point, value=sum(values) / len(values), seeds=len(values))


def _cells(nights: Sequence[Night]) -> list[tuple[str, str]]:
    return list(dict.fromkeys(cell for night in reversed(nights) for cell in night.cells))


Measured = tuple[Quantity, tuple[tuple[str, str], ...], bool, Mapping[Seed, float]]


def _measured(rows: Sequence[Row]) -> Iterator[Measured]:
    """Yield what one cell has measured in a night: quantity, conditions, whether exact, values by seed."""
    ok = [row for row in rows if row["status"] == "ok"]
    yield STATUS, (), True, {_seed(row): float(row["status"] == "ok") for row in rows}
    if not ok:
        return
    first = ok[0]
    scores = [score(name.removeprefix("score_")) for name in first if is_score(name)]
    for quantity in (*scores, *COLUMNS_ONLY):
        used = [row for row in ok if not is_void(row)] if quantity.kind == "speed" else ok
        known = {_seed(row): float(row[quantity.name]) for row in used if is_number(row.get(quantity.name))}
        if known:
            exact = str(first["device"]) in quantity.exact_on
            yield quantity, _conditions(quantity, used[0]), exact, known


def _by_reference(rows: Sequence[Row], speeds: Mapping[Seed, float]) -> tuple[str, float] | None:
    """Return the version of torch and the tokens per reference step of a cell's trials; None if a trial has none.

    A time or speed of zero is none. Trials of several versions have none in common, nor of one that is not known.
    """
    timed = {_seed(row): row for row in rows if row["status"] == "ok" and _seed(row) in speeds}
    seconds = {seed: row["reference_step_seconds"] for seed, row in timed.items()}
    if not all(is_number(seconds[seed]) and seconds[seed] > 0 and speed > 0 for seed, speed in speeds.items()):
        return None
    versions = {_torch(row["environment_json"]) for row in timed.values()}
    version = versions.pop() if len(versions) == 1 else None
    if version is None:
        return None
    return version, statistics.fmean(speed * seconds[seed] for seed, speed in speeds.items())


def _torch(text: str | None) -> str | None:
    packages = _object(text).get("packages")
    version = packages.get("torch") if isinstance(packages, dict) else None
    return None if version is None else str(version)


def _seed(row: Row) -> Seed:
    return int(row["seed"]) if is_number(row["seed"]) else None


def _conditions(quantity: Quantity, row: Row) -> tuple[tuple[str, str], ...]:
    """Return what must be equal for values to compare, of one row for all seeds of its cell."""
    found = [(name, str(row[name])) for name in quantity.same if row.get(name) is not None]
    if quantity.kind == "speed":
        found += [(name, str(row[name])) for name in _TIMES if row.get(name) is not None]
        found += _machine(row["environment_json"])
    if quantity.kind == "score":
        task = quantity.name.removeprefix("score_")
        found += [*_metric(row["scores_json"], task), *_split(row["settings_json"])]
    return tuple(found)


@cache
def _machine(text: str | None) -> tuple[tuple[str, str], ...]:
    known = _object(text)
    gpus = known.get("gpus")
    if isinstance(gpus, list):
        known["gpu"] = [{name: gpu.get(name) for name in _GPU} if isinstance(gpu, dict) else gpu for gpu in gpus]
    return tuple((name, json.dumps(known[name])) for name in (*_MACHINE, "gpu") if known.get(name) is not None)


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
