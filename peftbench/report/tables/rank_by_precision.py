"""Rank against precision, per method: a small table per score and per cost, with intervals over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from peftbench.report import format as fmt
from peftbench.report.collect import MEAN, Cell, Results, method_title, precision_order
from peftbench.report.notes.significance import Standing, standing


@dataclass(frozen=True)
class Grid:
    """One quantity: rows are ranks, columns are precisions."""

    title: str
    unit: str
    lines: tuple[tuple[str, tuple[str, ...]], ...]
    """(rank, one entry per precision)."""


@dataclass(frozen=True)
class MethodGrids:
    """A method's grids; methods whose cells differ in other options too have one for each."""

    title: str
    knob: str
    """What the rank is; empty where the method has none."""
    precisions: tuple[str, ...]
    grids: tuple[Grid, ...]


@dataclass(frozen=True)
class _Quantity:
    """A stored column as the grids show it: the same unit and decimals in all of them, so that they compare by eye."""

    column: str
    title: str
    unit: fmt.Unit
    digits: int
    exact: bool = False
    """Whether seeds agree to the byte, so that an interval is shown only where they do not."""


def heading(results: Results) -> str:
    """Return what the entries are: means with which interval, over how many seeds."""
    usual, counts = _usual_n(results), {len(cell.ok) for cell in results.tuned}
    if not usual:
        return "No tuned cell has a finished trial."
    if counts == {1}:
        return "Means of one seed per cell: no interval can be given."
    told = f"Mean ± half width of the 95 % t-interval over n = {usual} {'seed' if usual == 1 else 'seeds'}"
    if len(counts) > 1:
        told += f" where an entry names no other n{'; one seed has no interval' if 1 in counts else ''}"
    if standing(results).rankings:
        told = f"Scores: mean and 95 % interval for new seeds and new examples. Costs: {told[0].lower()}{told[1:]}"
    per_seed = " The mean over tasks is taken per seed, then like every score." if len(results.tasks) > 1 else ""
    return f"{told}.{per_seed} Bytes without ± are the same for every seed."


def method_grids(results: Results) -> tuple[MethodGrids, ...]:
    """Return the grids of every method that has a size knob or stands at several precisions."""
    families: dict[tuple[str, str, str], list[Cell]] = {}
    several_bases = len(results.distinct("base")) > 1
    for cell in results.cells:
        base = f"on {cell.summary.base}" if several_bases else ""
        families.setdefault((cell.method, cell.variant, base), []).append(cell)
    quantities, usual, known = _quantities(results), _usual_n(results), standing(results)
    found = []
    for (method, variant, base), cells in families.items():
        precisions = tuple(sorted({cell.precision for cell in cells}, key=precision_order))
        if len(precisions) > 1 or any(cell.rank is not None for cell in cells):
            record = cells[0].record
            title = " ".join(filter(None, (method_title(method), variant, base)))
            knob = (record.rank_meaning if record else "rank") or ""
            grids = tuple(_grid(q, cells, precisions, usual, known) for q in quantities if _applies(q, cells))
            found.append(MethodGrids(title, knob, precisions, grids))
    return tuple(found)


def _usual_n(results: Results) -> int:
    """Return how many finished seeds most tuned cells have, the larger of two as frequent; 0 where none has any."""
    counts = sorted((len(cell.ok) for cell in results.tuned), reverse=True)
    return statistics.mode(counts) if counts else 0


def _quantities(results: Results) -> list[_Quantity]:
    tasks = [*results.tasks, *([MEAN] if len(results.tasks) > 1 else [])]
    return [
        *(_Quantity(f"score_{task}", task, fmt.Unit("%", 0.01), 1) for task in tasks),
        _measured(results, "base_weights_bytes", "base weights"),
        _measured(results, "peak_train_bytes", "peak train memory"),
        _measured(results, "tokens_per_second", "throughput", "tokens/s"),
        _measured(results, "train_seconds", "train time", "s"),
    ]


def _measured(results: Results, column: str, title: str, unit: str = "") -> _Quantity:
    """Return a cost: bytes (no unit given) in the unit of the middle cell, with its three significant digits."""
    values = [value for cell in results.cells if (value := cell.mean(column)) is not None]
    shown = fmt.Unit(unit, 1.0) if unit else fmt.byte_unit(values)
    return _Quantity(column, title, shown, fmt.decimals(value / shown.size for value in values), not unit)


def _applies(quantity: _Quantity, cells: Sequence[Cell]) -> bool:
    """Whether a method has the quantity at all: the untuned base has no training time, however often it finished."""
    finished = [cell for cell in cells if len(cell.ok)]
    return not finished or any(cell.mean(quantity.column) is not None for cell in finished)


def _grid(quantity: _Quantity, cells: Sequence[Cell], precisions: Sequence[str], usual: int, known: Standing) -> Grid:
    ranks = sorted({cell.rank for cell in cells}, key=lambda rank: rank or 0)
    at = {(cell.rank, cell.precision): cell for cell in cells}
    lines = tuple(
        (_rank(rank), tuple(_entry(at.get((rank, precision)), quantity, usual, known) for precision in precisions))
        for rank in ranks
    )
    return Grid(quantity.title, quantity.unit.name, lines)


def _rank(rank: int | None) -> str:
    return fmt.MISSING if rank is None else str(rank)


def _entry(cell: Cell | None, quantity: _Quantity, usual: int, known: Standing) -> str:
    """Return a cell's number; what became of it where it has none; nothing where the suite has no such cell."""
    if cell is None:
        return ""
    if not len(cell.ok):
        return cell.trouble
    found = cell.summary.spreads.get(quantity.column)
    if found is None:
        return fmt.MISSING
    same = quantity.exact and found.minimum == found.maximum
    text = fmt.spread(found.mean, None if same else found.half_width, 1 / quantity.unit.size, quantity.digits)
    estimate = known.estimate(quantity.title, cell) if quantity.column.startswith("score_") else None
    if estimate is not None:
        text = f"{fmt.spread(found.mean, None, 100)} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
    return text if found.n == usual or cell.is_base else f"{text} (n={found.n})"
