"""Rank against precision, per method: a small table per score and per cost, with intervals over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from peftbench.records import units as fmt
from peftbench.report.collect import MEAN, Cell, Results, method_title
from peftbench.report.derived.significance import Significance, significance
from peftbench.report.notes import rank_tables as notes
from peftbench.report.order import precision_order


@dataclass(frozen=True)
class RankTable:
    """One quantity: rows are ranks, columns are precisions."""

    title: str
    unit: str
    lines: tuple[tuple[str, tuple[str, ...]], ...]
    """(rank, one entry per precision)."""


@dataclass(frozen=True)
class MethodRankTables:
    """The tables of a method; with other options as axes, of a method with one setting of these."""

    title: str
    rank_meaning: str
    """What the rank is; empty if the method has none."""
    precisions: tuple[str, ...]
    tables: tuple[RankTable, ...]


@dataclass(frozen=True)
class _Quantity:
    """A stored column, with the same unit and decimals in all tables so that they can be compared by eye."""

    column: str
    title: str
    unit: fmt.Unit
    digits: int
    exact: bool = False
    """Whether seeds usually agree to the byte; an interval is shown only if they do not."""


def heading(results: Results) -> str:
    """Return what the entries are: means with which interval, over how many seeds."""
    return notes.heading(results, _usual_n(results))


def rank_tables(results: Results) -> tuple[MethodRankTables, ...]:
    """Return the tables of every method that has a rank or several precisions."""
    families: dict[tuple[str, str, str], list[Cell]] = {}
    several_bases = len(results.distinct("base")) > 1
    for cell in results.cells:
        base = f"on {cell.summary.base}" if several_bases else ""
        families.setdefault((cell.method, cell.variant, base), []).append(cell)
    quantities, usual, known = _quantities(results), _usual_n(results), significance(results)
    found = []
    for (method, variant, base), cells in families.items():
        precisions = tuple(sorted({cell.precision for cell in cells}, key=precision_order))
        if len(precisions) > 1 or any(cell.rank is not None for cell in cells):
            record = cells[0].record
            title = " ".join(filter(None, (method_title(method), variant, base)))
            meaning = (record.rank_meaning if record else "rank") or ""
            tables = tuple(_rank_table(q, cells, precisions, usual, known) for q in quantities if _applies(q, cells))
            found.append(MethodRankTables(title, meaning, precisions, tables))
    return tuple(found)


def _usual_n(results: Results) -> int:
    """Return the most frequent number of finished seeds of tuned cells, the larger of a tie; 0 if none has any."""
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
    """Return a cost; without a unit it is bytes, in the unit and to three significant digits of the median cell."""
    values = [value for cell in results.cells if (value := cell.mean(column)) is not None]
    shown = fmt.Unit(unit, 1.0) if unit else fmt.byte_unit(values)
    return _Quantity(column, title, shown, fmt.decimals(value / shown.size for value in values), not unit)


def _applies(quantity: _Quantity, cells: Sequence[Cell]) -> bool:
    """Whether a method has the quantity at all: the untuned base model has no training time."""
    finished = [cell for cell in cells if len(cell.ok)]
    return not finished or any(cell.mean(quantity.column) is not None for cell in finished)


def _rank_table(
    quantity: _Quantity, cells: Sequence[Cell], precisions: Sequence[str], usual: int, known: Significance
) -> RankTable:
    ranks = sorted({cell.rank for cell in cells}, key=lambda rank: rank or 0)
    at = {(cell.rank, cell.precision): cell for cell in cells}
    lines = tuple(
        (_rank(rank), tuple(_entry(at.get((rank, precision)), quantity, usual, known) for precision in precisions))
        for rank in ranks
    )
    return RankTable(quantity.title, quantity.unit.name, lines)


def _rank(rank: int | None) -> str:
    return fmt.MISSING if rank is None else str(rank)


def _entry(cell: Cell | None, quantity: _Quantity, usual: int, known: Significance) -> str:
    """Return a cell's number, or how it failed; nothing if the suite has no such cell."""
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
