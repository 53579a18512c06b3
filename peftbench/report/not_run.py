"""Cells of the recorded grid of which no trial has a result yet, as rows of tables show them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from peftbench.methods import METHODS
from peftbench.report.collect import Results
from peftbench.report.names import titled
from peftbench.results.store import CellAxes


@dataclass(frozen=True)
class NotRun:
    """A cell of the grid of which no trial has a result yet."""

    name: str
    """With its base model, if there are several."""
    cell: str
    base: str
    trials: int
    """How many it has in the grid."""
    title: str
    """Its display name."""
    axes: CellAxes | None
    """None in older folders, which have its name only."""

    @property
    def method(self) -> str:
        """The name of its method."""
        return self.axes.method if self.axes else self.cell.partition(" ")[0]

    @property
    def precision(self) -> str | None:
        """The name of its precision; None if it is not known."""
        return self.axes.precision if self.axes else None

    @property
    def rank(self) -> int | None:
        """Its rank; None if it has none, or it is not known."""
        return self.axes.rank if self.axes else None

    @property
    def is_base(self) -> bool:
        """Whether this is the untuned base model, which trains nothing."""
        return self.method in METHODS and not METHODS[self.method].trains

    @property
    def state(self) -> str:
        """How many of its trials ended ok, as tables say it."""
        return f"0 of {self.trials} (not run)"


def not_run(results: Results) -> Mapping[str, NotRun]:
    """Return the cells of the grid of which no trial has a result yet, by name; none in older folders."""
    grid = results.grid
    if grid is None:
        return {}
    here = list(dict.fromkeys(cell.summary.base for cell in results.cells))
    stored, shown = set(results.trials["key"]), {(cell.summary.base, cell.summary.cell) for cell in results.cells}
    count: Counter[tuple[str, str]] = Counter()
    for key, cell in grid.cells.items():
        base = grid.bases.get(key)
        on = here if base is None else [base]  # an older grid does not say which of several it is
        if key not in stored and not any((each, cell) in shown for each in on):
            count[", ".join(on), cell] += 1
    several = len({*here, *grid.bases.values()}) > 1
    found = {}
    for (base, cell), trials in count.items():
        axes = grid.axes.get(cell)
        name, title = cell, _title(cell, axes, results)
        if several:
            name, title = f"{name} ({base})", f"{title} on {base}"
        found[name] = NotRun(name, cell, base, trials, title, axes)
    return found


def _title(cell: str, axes: CellAxes | None, results: Results) -> str:
    """Return the display name of a cell that is not among those with results; its own in older folders."""
    if axes is None:
        return cell
    precisions = {axes.precision, *(each.precision for each in results.cells if each.method == axes.method)}
    return titled(cell, axes.method, axes.precision, precisions) or cell
