"""In which order cells stand in a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftbench.methods import METHODS
from peftbench.models.precision import PRECISIONS

if TYPE_CHECKING:
    from peftbench.report.collect import Cell


def of_methods(cell: Cell) -> tuple[Any, ...]:
    """Sort by base model, then by the table of methods, rank and precision."""
    rank, precision = cell.rank or 0, precision_order(cell.precision)
    return (cell.summary.base, _place(METHODS, cell.method), cell.kind, rank, precision, cell.name)


def of_grid(keys: Sequence[str]) -> Callable[[Cell], int]:
    """Sort by the place of a cell's first trial in the suite, for a ladder, whose order means something."""
    places = {key: place for place, key in enumerate(keys)}
    return lambda cell: min((places.get(key, len(places)) for key in cell.trials["key"]), default=len(places))


def precision_order(name: str) -> int:
    """Return a precision's place in the table of precisions, unknown ones last."""
    return _place(PRECISIONS, name)


def _place(table: Mapping[str, Any], name: str) -> int:
    return list(table).index(name) if name in table else len(table)
