"""The stages of a suite's run: the learning-rate search if there is one, then the grid. No torch."""

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
    """A grid of trials that is run before the next stage begins."""

    trials: tuple[Trial, ...]
    """The requested trials."""
    whole: tuple[Trial, ...]
    """The grid from which they were selected, without cells whose learning rate is not known yet."""
    folder: Path
    """The results folder."""
    searches: bool
    """Whether its trials are the candidates of a learning-rate search."""
    notes: tuple[str, ...] = ()
    """Notes to print before it runs."""


def stages(suite: Suite, device: str, folder: Path) -> Iterator[Stage]:
    """Yield a suite's stages. Each is made after the previous one has run.

    Args:
        suite: a validated suite.
        device: ``cpu`` or ``cuda``.
        folder: the results folder of the grid; the search has its own folder inside it.
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
    # without a complete search, a cell has no learning rate and its trials have no key
    unknown = {cell for cell, each in given.items() if cell not in found or not found[cell].complete(each)}
    trials = expand(suite, device, rates)
    waiting = dict.fromkeys(trial.cell for trial in trials if trial.cell in unknown and not trial.unsupported)
    trials = tuple(trial for trial in trials if trial.cell not in waiting)
    whole = tuple(t for t in expand(everything, device, rates) if t.cell not in unknown or t.unsupported)
    notes = _notes(waiting, [c for c in found if c in {t.cell for t in trials} and c not in rates])
    if not trials:
        raise UserError(notes[0])
    yield Stage(trials, whole, folder, False, notes)


def _notes(waiting: Iterable[str], without_ok: Iterable[str]) -> tuple[str, ...]:
    """Return notes about cells whose search is not complete, and cells without a candidate that ended ok."""
    notes = []
    if waiting:
        notes.append(
            f"the learning-rate search of {', '.join(waiting)} is not complete (candidates were killed, timed out or "
            "failed), so these cells are excluded; run the suite again, or remove those rates from the search"
        )
    if without_ok:
        notes.append(f"no candidate ended ok, so the smallest learning rate is used: {', '.join(without_ok)}")
    return tuple(notes)
