"""A suite's run in its stages: the search for learning rates where there is one, then the grid. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from peftbench import choice
from peftbench.records import Trial
from peftbench.suite import Suite, expand
from peftbench.suite.candidates import candidates
from peftbench.suite.expand import searched
from peftbench.suite.smoke import smoke


@dataclass(frozen=True)
class Stage:
    """One grid of trials that is run as a whole."""

    trials: tuple[Trial, ...]
    """Those asked for."""
    whole: tuple[Trial, ...]
    """The grid that they were selected from, as far as its learning rates are known."""
    folder: Path
    """Of the results."""
    searches: bool
    """Whether its trials are the candidates of a search."""
    notes: tuple[str, ...] = ()
    """What to tell before it runs."""


def stages(suite: Suite, device: str, folder: Path) -> Iterator[Stage]:
    """Yield a suite's stages; each is made when the one before it has run.

    Args:
        suite: a validated suite.
        device: ``cpu`` or ``cuda``.
        folder: of the grid's results; the search's are in a folder of their own inside it.
    """
    if suite.smoke:
        found = smoke(suite, device)
        yield Stage(found.trials, found.trials, folder, False, found.notes)
        return
    everything = replace(suite, only=())
    tried = candidates(suite, device)
    if tried:
        yield Stage(tried, candidates(everything, device), folder / choice.FOLDER, True)
    rates = choice.rates(folder) if searched(everything) else {}
    unknown = searched(everything).keys() - rates.keys()
    trials = expand(suite, device, rates)
    asked = {trial.cell for trial in trials}
    # the trials of a cell that was never searched have no key yet
    whole = tuple(t for t in expand(everything, device, rates) if t.cell in asked or t.cell not in unknown)
    yield Stage(trials, whole, folder, False)
