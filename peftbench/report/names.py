"""Names of cells as a reader writes them: "LoRA r=8", with what tells the cells of one table apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from peftbench.report.collect import Cell, method_title


def display_names(cells: Sequence[Cell]) -> dict[str, str]:
    """Return a short name for each cell's own name; where two would be equal, both keep their own.

    The precision is part of it only if the cells have several, the base model only if there are several.
    """
    precisions = {cell.precision for cell in cells}
    bases = {cell.summary.base for cell in cells}
    found = {cell.name: _display(cell, len(precisions) > 1, len(bases) > 1) for cell in cells}
    count = Counter(found.values())
    return {own: own if count[short] > 1 else short for own, short in found.items()}


def _display(cell: Cell, precision: bool, base: bool) -> str:
    parts = [
        method_title(cell.method),
        cell.variant if cell.variant not in ("nan", "None", "<NA>") else "",
        "" if cell.rank is None else f"r={cell.rank}",
        cell.precision if precision else "",
        f"on {cell.summary.base}" if base else "",
    ]
    return " ".join(filter(None, parts))
