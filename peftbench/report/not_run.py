"""Cells of the recorded grid of which no trial has a result yet, as rows of tables show them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from peftbench.methods import METHODS
from peftbench.report.collect import Results, method_title

_RANK = re.compile(r"r=(\d+)", re.ASCII)


@dataclass(frozen=True)
class NotRun:
    """A cell of the grid of which no trial has a result yet; all that is known of it is its name."""

    name: str
    """With its base model, if there are several."""
    cell: str
    base: str
    trials: int
    """How many it has in the grid."""
    title: str
    """Its display name."""

    @property
    def method(self) -> str:
        """The name of its method."""
        return self.cell.partition(" ")[0]

    @property
    def precision(self) -> str:
        """The name of its precision."""
        return self.cell.rpartition(" ")[2]

    @property
    def rank(self) -> int | None:
        """Its rank; None if it has none."""
        found = [int(match[1]) for word in self.cell.split(" ") if (match := _RANK.fullmatch(word))]
        return found[0] if found else None

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
        name, title = (
            (f"{cell} ({base})", f"{_title(cell, results)} on {base}") if several else (cell, _title(cell, results))
        )
        found[name] = NotRun(name, cell, base, trials, title)
    return found


def _title(cell: str, results: Results) -> str:
    """Return the display name of a cell that is not among those with results."""
    method, _, rest = cell.partition(" ")
    inside, _, precision = rest.rpartition(" ")
    known = method in METHODS and precision == METHODS[method].default_precision
    implied = known and all(each.precision == precision for each in results.cells if each.method == method)
    title = method if method in METHODS and METHODS[method].variants else method_title(method)
    return " ".join(filter(None, (title, inside, "" if implied else precision)))
