"""Rank against precision, per method: one small table per task and one for peak memory."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.report import format as fmt
from peftbench.report.collect import MEAN, Cell, Results, method_of, method_title, precision_order


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


def method_grids(results: Results) -> tuple[MethodGrids, ...]:
    """Return the grids of every method that has a size knob or stands at several precisions."""
    families: dict[tuple[str, str, str], list[Cell]] = {}
    several_bases = len(results.distinct("base")) > 1
    for cell in results.cells:
        base = f"on {cell.summary.base}" if several_bases else ""
        families.setdefault((cell.method, cell.variant, base), []).append(cell)
    found = []
    for (method, variant, base), cells in families.items():
        precisions = tuple(sorted({cell.precision for cell in cells}, key=precision_order))
        if len(precisions) > 1 or any(cell.rank is not None for cell in cells):
            record = method_of(method)
            title = " ".join(filter(None, (method_title(method), variant, base)))
            knob = (record.knob if record else "rank") or ""
            found.append(MethodGrids(title, knob, precisions, _grids(results, cells, precisions)))
    return tuple(found)


def _grids(results: Results, cells: list[Cell], precisions: tuple[str, ...]) -> tuple[Grid, ...]:
    tasks = [*results.tasks, *([MEAN] if len(results.tasks) > 1 else [])]
    unit = fmt.byte_unit(cell.mean("peak_train_bytes") for cell in results.cells)
    ranks = sorted({cell.rank for cell in cells}, key=lambda rank: rank or 0)
    at = {(cell.rank, cell.precision): cell for cell in cells}

    def score(cell: Cell, task: str) -> str:
        return fmt.spread(cell.mean(f"score_{task}"), cell.sd(f"score_{task}"), 100)

    def memory(cell: Cell, _: str) -> str:
        mean = cell.mean("peak_train_bytes")
        return fmt.number(None if mean is None else mean / unit.size)

    quantities = [*((task, "%", score) for task in tasks), ("peak train memory", unit.name, memory)]
    return tuple(
        Grid(
            title,
            words,
            tuple((_rank(rank), tuple(_entry(at.get((rank, p)), title, text) for p in precisions)) for rank in ranks),
        )
        for title, words, text in quantities
    )


def _rank(rank: int | None) -> str:
    return "–" if rank is None else str(rank)


def _entry(cell: Cell | None, title: str, text: object) -> str:
    """Return a cell's number; what became of it where it has none; nothing where the suite has no such cell."""
    if cell is None:
        return ""
    if not len(cell.ok):
        return cell.trouble
    return text(cell, title)  # type: ignore[operator]
