"""Notes on trials without a usable result: missing, failed or unsupported."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peftbench.records import Status
from peftbench.records.wording import agreeing, plural
from peftbench.report.collect import Cell, Results
from peftbench.report.order import precision_order


def missing(results: Results) -> Iterable[str]:
    """Yield how many trials of the grid have no result, and how many stored rows are not in the table."""
    if results.missing:
        have = agreeing(results.missing, "has", "have")
        yield f"{results.missing:,} of the grid's {plural(results.asked, 'trial')} {have} no result yet."
    if results.left_out:
        why = "of other settings or suites" if results.grid else "older, of the same cells and seeds,"
        be = agreeing(results.left_out, "is", "are")
        yield f"{plural(results.left_out, 'stored row')} {why} {be} excluded."


def failed(results: Results) -> Iterable[str]:
    """Yield each cell with trials that failed or were skipped, and why."""
    for cell in results.cells:
        if cell.trouble and cell.trouble != Status.UNSUPPORTED.value:
            yield _one(cell)


def unsupported(results: Results) -> Iterable[str]:
    """Yield the unsupported cells and why; those of a method that share the reason together."""
    groups: dict[tuple[str, str, str], list[Cell]] = {}
    for cell in results.cells:
        if cell.trouble == Status.UNSUPPORTED.value:
            why = "; ".join(cell.summary.reasons)
            groups.setdefault((cell.summary.base, cell.kind, why), []).append(cell)
    several_bases = len(results.distinct("base")) > 1
    for (base, kind, why), cells in groups.items():
        on = f" on {base}" if several_bases else ""
        yield _one(cells[0]) if len(cells) == 1 else f"{kind} in {_precisions(cells)}{on}: {_number(cells)} ({why})."


def _precisions(cells: Sequence[Cell]) -> str:
    return ", ".join(sorted({cell.precision for cell in cells}, key=precision_order))


def _number(cells: Sequence[Cell]) -> str:
    return f"{plural(len(cells), 'cell')} unsupported"


def _one(cell: Cell) -> str:
    why = f" ({'; '.join(cell.summary.messages)})" if cell.summary.messages else ""
    return f"{cell.name}: {cell.trouble}{why}."
