"""Score differences between two folders for new seeds and new examples, if both store every example's outcome."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.results.store import read
from peftbench.results.watch.findings import Cell

if TYPE_CHECKING:
    import pandas as pd

    from peftbench.results.crossed_effects.model import Estimate, Outcomes
    from peftbench.results.crossed_effects.outcomes import Arranged


@dataclass(frozen=True)
class Stored:
    """The outcomes of one folder, read when they are first needed."""

    folder: Path
    trials: pd.DataFrame
    """The rows that are compared."""

    def outcomes(self, task: str) -> Mapping[Cell, Outcomes]:
        """Return the outcomes of each cell on a task, without cells whose outcomes are not all stored."""
        from peftbench.results.crossed_effects.outcomes import by_cell

        if task not in self._found:
            self._found[task] = by_cell(self.trials, self._examples, (task,))
        return self._found[task]

    @cached_property
    def _examples(self) -> Arranged:
        from peftbench.results.crossed_effects.outcomes import arrange

        return arrange(read(self.folder).examples)

    @cached_property
    def _found(self) -> dict[str, Mapping[Cell, Outcomes]]:
        return {}


def crossed_difference(column: str, cell: Cell, stored: tuple[Stored, Stored], *, paired: bool) -> Estimate | None:
    """Return the difference of a cell's score, new minus old, for new seeds and new examples.

    None if a side has a single seed or no stored outcomes, or the examples differ. The untuned base model has no seed:
    its difference is for new examples.

    Args:
        column: column of the rows, ``score_{task}``.
        cell: base model and name.
        stored: old and new side.
        paired: whether both sides have the same seeds.
    """
    from peftbench.results.crossed_effects.model import Outcomes, difference

    old, new = (side.outcomes(column.removeprefix("score_")).get(cell) for side in stored)
    if old is None or new is None or old.examples != new.examples:
        return None
    if old.seedless and new.seedless:
        return difference(Outcomes(old.tasks), Outcomes(new.tasks), paired=True)
    if min(old.seeds, new.seeds) < 2:
        return None
    return difference(old, new, paired=paired)
