"""A suite's run in its stages: the search for learning rates where there is one, then the grid. No torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from peftbench.errors import UserError
from peftbench.records import Trial
from peftbench.results import learning_rate_search
from peftbench.suite import Suite, expand
from peftbench.suite.expand import candidate_rates
from peftbench.suite.learning_rate_search import candidates
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
        small = smoke(suite, device)
        yield Stage(small.trials, small.trials, folder, False, small.notes)
        return
    everything = replace(suite, only=())
    tried = candidates(suite, device)
    if tried:
        yield Stage(tried, candidates(everything, device), folder / learning_rate_search.FOLDER, True)
    given = candidate_rates(everything)
    found = learning_rate_search.searches(folder) if given else {}
    rates = {cell: each.best.rate for cell, each in found.items() if each.best}
    # the trials of a cell that was not searched to the end have no key yet
    unknown = {cell for cell, each in given.items() if cell not in found or not found[cell].complete(each)}
    trials = expand(suite, device, rates)
    waiting = dict.fromkeys(trial.cell for trial in trials if trial.cell in unknown and not trial.unsupported)
    trials = tuple(trial for trial in trials if trial.cell not in waiting)
    whole = tuple(t for t in expand(everything, device, rates) if t.cell not in unknown or t.unsupported)
    notes = _notes(waiting, [c for c in found if c in {t.cell for t in trials} and c not in rates])
    if not trials:
        raise UserError(notes[0])
    yield Stage(trials, whole, folder, False, notes)


def _notes(waiting: Iterable[str], untold: Iterable[str]) -> tuple[str, ...]:
    """Return what to tell of cells whose search is not complete, and of those of which no candidate ended ok."""
    notes = []
    if waiting:
        notes.append(
            f"the search of {', '.join(waiting)} is not complete (candidates were killed, ran out of time or met an "
            "error): left out until it is; run the suite again, or take those rates out"
        )
    if untold:
        notes.append(f"no candidate ended ok, so the smallest learning rate is taken: {', '.join(untold)}")
    return tuple(notes)
