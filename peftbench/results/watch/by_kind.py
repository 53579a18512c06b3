"""From two nights to the findings of each kind: reads the quantities, refuses what does not compare, and judges."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftbench.records.watch import Kind, Watch
from peftbench.results.busy_machine import Measured
from peftbench.results.rows import is_number
from peftbench.results.watch import common_shift, exact, inference, memory, merge, retention, scores, speed, statuses
from peftbench.results.watch.clocks import Timed
from peftbench.results.watch.differences import changed_metrics, other_split
from peftbench.results.watch.examples import crossed_difference
from peftbench.results.watch.findings import Cell, Finding
from peftbench.results.watch.night import Night, Rows, differing, other_gpu, other_machine, seed_of, timed
from peftbench.results.watch.quantities import FIXED, Quantity, Seed, mean, quantities

if TYPE_CHECKING:
    import pandas as pd

Values = dict[Seed, float]
Sides = tuple[Values, Values]
Rule = Callable[[Night, Night, list[Cell], Watch], Iterable[Finding]]


@dataclass(frozen=True)
class _Read:
    """A quantity in all cells: the values of those that compare, and findings about the others."""

    values: Mapping[Cell, Sides]
    refused: tuple[Finding, ...]


def _read(quantity: Quantity, old: Night, new: Night, cells: Iterable[Cell]) -> _Read:
    """Return a quantity's values on both sides; cells that no side measured are left out."""
    values: dict[Cell, Sides] = {}
    refused = []
    for cell in cells:
        rows = old.ok(cell), new.ok(cell)
        sides = quantity.values(rows[0]), quantity.values(rows[1])
        if not any(sides):
            continue
        why = differing(*rows, quantity.same) if all(sides) else _measured_by_one(sides)
        if why is None:
            values[cell] = sides
        else:
            refused.append(_refusal(cell, quantity, sides, why))
    return _Read(values, tuple(refused))


def _measured_by_one(sides: tuple[Mapping[Seed, float], Mapping[Seed, float]]) -> str:
    return f"only the {'old' if sides[0] else 'new'} side has it"


def _refusal(
    cell: Cell, quantity: Quantity, sides: tuple[Mapping[Seed, float], Mapping[Seed, float]], why: str
) -> Finding:
    trials = len(sides[0]), len(sides[1])
    return Finding(*cell, quantity, "cannot tell", "not comparable", mean(sides[0]), mean(sides[1]), trials, reason=why)


def _of(kind: Kind) -> tuple[Quantity, ...]:
    return tuple(quantity for quantity in FIXED if quantity.kind == kind)


def _status(old: Night, new: Night, cells: list[Cell], watch: Watch) -> Iterable[Finding]:
    lost = [cell for cell in old.summaries if cell not in new.summaries] if new.unfinished else []
    return [statuses.judge(cell, old, new) for cell in cells] + [statuses.missing(cell, old, new) for cell in lost]


def _sizes(old: Night, new: Night, cells: list[Cell], watch: Watch) -> Iterable[Finding]:
    for quantity in _of("size"):
        found = _read(quantity, old, new, cells)
        tolerated = 0.0 if quantity.better == "equal" else watch.size_percent / 100
        yield from found.refused
        yield from (exact.judge(cell, quantity, *sides, tolerated) for cell, sides in found.values.items())


def _memory(old: Night, new: Night, cells: list[Cell], watch: Watch) -> Iterable[Finding]:
    tolerated = watch.memory_percent / 100
    for quantity in _of("memory"):
        found = _read(quantity, old, new, cells)
        yield from found.refused
        exactly = {cell for cell in found.values if _devices(old, new, cell) <= quantity.exact_on}
        apart = {cell: why for cell in found.values.keys() - exactly if (why := other_gpu(old.ok(cell), new.ok(cell)))}
        yield from (_refusal(cell, quantity, found.values[cell], apart[cell]) for cell in _in_order(cells, apart))
        yield from (exact.judge(cell, quantity, *found.values[cell], tolerated) for cell in _in_order(cells, exactly))
        yield from memory.judge(
            quantity,
            {cell: sides for cell, sides in found.values.items() if cell not in exactly | apart.keys()},
            tolerated,
        )


def _in_order(cells: Iterable[Cell], chosen: Iterable[Cell]) -> list[Cell]:
    """Return the chosen cells in the order of all."""
    known = set(chosen)
    return [cell for cell in cells if cell in known]


def _devices(old: Night, new: Night, cell: Cell) -> set[str]:
    return {str(name) for side in (old, new) for name in side.ok(cell)["device"].dropna()}


def _repeats_exactly(quantity: Quantity, old: Night, new: Night, cell: Cell) -> bool:
    """Return whether a repetition of what has no seed gives the same number.

    It does on devices that repeat, and on the same machine with the same versions of what computes.
    """
    same = other_machine(old.ok(cell), new.ok(cell)) is None
    return same and _devices(old, new, cell) <= quantity.exact_on


def _merge(old: Night, new: Night, cells: list[Cell], watch: Watch) -> Iterable[Finding]:
    for quantity in _of("merge"):
        found = _read(quantity, old, new, cells)
        yield from found.refused
        yield from (merge.judge(cell, quantity, *sides, watch.merge_factor) for cell, sides in found.values.items())


def _retention(old: Night, new: Night, cells: list[Cell], watch: Watch) -> Iterable[Finding]:
    for quantity in _of("retention"):
        found = _read(quantity, old, new, cells)
        yield from found.refused
        compared, limits = {}, {}
        for cell, (one, other) in found.values.items():
            difference = None if one == other else retention.between((one, old.ok(cell)), (other, new.ok(cell)))
            compared[cell] = scores.Compared(one, other, difference, _repeats_exactly(quantity, old, new, cell))
            tolerated, level = watch.retention_percent / 100, mean(one) or 0.0
            limits[cell] = scores.Limits(tolerated * level, max(retention.WITHIN, tolerated) * level)
        yield from scores.judge(quantity, compared, limits)


def _scores(old: Night, new: Night, cells: list[Cell], watch: Watch) -> Iterable[Finding]:
    tolerated = watch.score_points / 100
    limits = scores.Limits(tolerated, max(tolerated, scores.WITHIN_POINTS / 100))
    shared: dict[Quantity, dict[Cell, Sides]] = {}
    for quantity in quantities([*new.trials.columns, *old.trials.columns]):
        if quantity.kind != "score":
            continue
        found = _read(quantity, old, new, cells)
        yield from found.refused
        compared = {}
        for cell, sides in found.values.items():
            why = _scored_apart(quantity, old.ok(cell), new.ok(cell))
            if why is not None:
                yield _refusal(cell, quantity, sides, why)
            else:
                difference = _score_difference(quantity, cell, sides, (old, new))
                compared[cell] = scores.Compared(*sides, difference, _repeats_exactly(quantity, old, new, cell))
        yield from scores.judge(quantity, compared, dict.fromkeys(compared, limits))
        shared[quantity] = {cell: (dict(each.old), dict(each.new)) for cell, each in compared.items()}
    yield from common_shift.judge(shared, tolerated)


def _scored_apart(quantity: Quantity, old: pd.DataFrame, new: pd.DataFrame) -> str | None:
    """Return why scores of a cell do not compare: another split or metric; None if they do."""
    metrics = {f"score_{each.name}": each for each in changed_metrics(old, new)}
    metric = metrics.get(quantity.name)
    return other_split(old, new) if metric is None else f"the metric is {metric.old} and {metric.new}"


def _score_difference(
    quantity: Quantity, cell: Cell, sides: Sides, nights: tuple[Night, Night]
) -> scores.Difference | None:
    if sides[0] == sides[1]:
        return None
    paired = sides[0].keys() == sides[1].keys()
    found = crossed_difference(quantity.name, cell, (nights[0].stored, nights[1].stored), paired=paired)
    if found is not None:
        return scores.of_estimate(found)
    errors = [night.summaries[cell].mean(f"{quantity.name}_standard_error") for night in nights]
    return scores.over_seeds(*sides, errors)


def _timed(
    quantity: Quantity, old: Night, new: Night, cells: Iterable[Cell], phase: Measured = "train"
) -> tuple[dict[Cell, tuple[Rows, Rows]], list[Finding]]:
    """Return the rows of each cell whose times compare, and findings about the cells of which none do."""
    kept: dict[Cell, tuple[Rows, Rows]] = {}
    refused = []
    for cell in cells:
        rows = old.ok(cell), new.ok(cell)
        records = old.records(cell), new.records(cell)
        values = [_measured(quantity, side) for side in records]
        if not any(values):
            continue
        sides = [timed(side, phase)[0] for side in records]
        counting = [_measured(quantity, side) for side in sides]
        why = None if all(values) else _measured_by_one((values[0], values[1]))
        why = why or other_machine(*rows) or differing(*rows, quantity.same)
        if why is None and not all(counting):
            which = " and the ".join(name for name, each in zip(("old", "new"), counting, strict=True) if not each)
            why = f"the machine was busy in every trial of the {which} side"
        if why is None:
            kept[cell] = sides[0], sides[1]
        else:
            refused.append(_refusal(cell, quantity, (values[0], values[1]), why))
    return kept, refused


def _measured(quantity: Quantity, rows: Rows) -> Values:
    """Return a time's values by seed."""
    reader = inference.READERS.get(quantity.name)
    if reader is None:
        return _column(rows, quantity.name)
    found = {seed_of(row): reader(row) for row in rows}
    return {seed: math.exp(sum(each) / len(each)) for seed, each in found.items() if each}


def _column(rows: Rows, name: str) -> Values:
    return {seed_of(row): float(row[name]) for row in rows if is_number(row.get(name)) and row[name] > 0}


def _rates(rows: Rows, name: str) -> Values:
    return {seed: 1 / seconds for seed, seconds in _column(rows, name).items()}


def _speed(old: Night, new: Night, cells: list[Cell], watch: Watch) -> Iterable[Finding]:
    for quantity in _of("speed"):
        kept, refused = speeds(quantity, old, new, cells)
        yield from refused
        yield from speed.judge(quantity, kept, watch.speed_percent / 100, watch.machine_percent / 100)


def speeds(
    quantity: Quantity, old: Night, new: Night, cells: Iterable[Cell]
) -> tuple[dict[Cell, Timed], list[Finding]]:
    """Return a speed of each cell whose times compare, with the machine's clocks, and why those of others do not."""
    kept, refused = _timed(quantity, old, new, cells)
    read = {
        cell: Timed(
            *(_column(side, quantity.name) for side in sides),
            *(_column(side, "device_flops_per_second") for side in sides),
            *(_rates(side, "reference_step_seconds") for side in sides),
        )
        for cell, sides in kept.items()
    }
    return read, refused


def _inference(old: Night, new: Night, cells: list[Cell], watch: Watch) -> Iterable[Finding]:
    for quantity in _of("inference"):
        trained = [cell for cell in cells if new.summaries[cell].method != "base"]
        kept, refused = _timed(quantity, old, new, trained, "inference")
        yield from refused
        read = {cell: (_repeats(quantity, sides[0]), _repeats(quantity, sides[1])) for cell, sides in kept.items()}
        yield from inference.judge(quantity, read, watch.inference_percent / 100)


def _repeats(quantity: Quantity, rows: Rows) -> inference.Repeats:
    return next((found for row in rows if (found := inference.READERS[quantity.name](row))), ())


JUDGES: Mapping[Kind, Rule] = {
    "status": _status,
    "memory": _memory,
    "speed": _speed,
    "size": _sizes,
    "score": _scores,
    "retention": _retention,
    "inference": _inference,
    "merge": _merge,
}
"""How each kind is judged."""
