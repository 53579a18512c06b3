"""Choose steps, scored examples, seeds, methods and a search of learning rates that fit a time, from pilots here."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from peftbench.commands import plan_time, terminal
from peftbench.commands.first_suite import choose
from peftbench.commands.first_suite.draft import Draft
from peftbench.commands.first_suite.grid_cost import ORDINARY, Grid, candidate
from peftbench.records import Result, Status, Trial
from peftbench.records.units import seconds as shown
from peftbench.records.wording import agreeing, plural, series
from peftbench.results.answer import LEAST_SEEDS
from peftbench.runner.pilot import NO_TIME
from peftbench.tasks.read import Reader

MEASURING = 0.2
"""Most of the given time that measuring takes."""
_FEWEST = 20
"""Fewest steps that are worth running."""
_FEWEST_METHODS = 2
"""Fewest methods that are a comparison."""
_KEPT = "lora"
"""The method that is never left out for its time: it is the most used one."""
_FEWEST_SCORED = 100
"""Fewest test examples of a task that are still scored to save time."""
_SCORING = 0.25
"""Share of the time that scoring may take if there is too little for all steps."""
_LARGE = 0.25
"""Share of the time from which a method is named as what could be left out."""


@dataclass(frozen=True)
class Timed:
    """What a time led to."""

    draft: Draft
    said: Sequence[str] = ()
    """What was chosen, a line each."""
    unknown: Sequence[str] = ()
    """What could not be known."""


def fit(
    draft: Draft, trials: Sequence[Trial], limit: float, reader: Reader, records: int, began: float | None = None
) -> Timed:
    """Return a draft whose grid fits a time, as far as that is possible; else the smallest one, which says so.

    If there is time, learning rates are searched. If there is too little, fewer examples are scored, and there are
    fewer steps; then fewer seeds, then fewer methods. What the user has fixed stays.

    Args:
        draft: the draft with its methods.
        trials: one trial of each cell.
        limit: in seconds.
        reader: returns a split's examples.
        records: number of training records.
        began: ``time.monotonic()`` when the command began, to say how long it has taken; None to leave that out.
    """
    ordered = sorted(trials, key=lambda trial: (trial.training is None, trial.method != _KEPT))  # the most useful first
    every, busy = _measure(ordered, reader, draft.seed_count, limit, began)
    wanted = draft.steps or ORDINARY
    assumed, guessed, stepped = every.assumed()
    grid, unknown = assumed.known(), [*assumed.unknown(limit), *_guessed(guessed), *_unscored(stepped), *busy]
    if not any(trial.training for trial in grid.trials):
        cells = {trial.cell for trial in every.trials if trial.training}
        slow = cells.intersection(every.unmeasured()) or cells.intersection(every.stopped)
        return (
            _nothing_measured(draft, every, limit, [*every.unknown(limit), *busy])
            if slow
            else Timed(draft, (), unknown)
        )
    about = "at least about" if any(each.incomplete for each in grid.found.values()) else "about"
    searched = grid.cost(with_search=True).at(wanted)
    if searched <= limit:
        made = choose.with_search(draft, records)
        return Timed(made, (f"{about} {shown(searched)} of {shown(limit)}, with a search of learning rates",), unknown)
    whole = grid.cost().at(wanted)
    rates = f"learning rates are untuned defaults: a search would take about {shown(searched)}"
    if whole <= limit:
        return Timed(draft, (f"{about} {shown(whole)} of {shown(limit)}", rates), unknown)
    made, less, fewer = _fewer_scored(draft, grid, limit)
    fewest = min(_FEWEST, wanted)
    made, less, seeds = _reduced(made, less, limit, fewest)
    cost = less.cost()
    steps = max(fewest, min(wanted, cost.steps(limit)))
    took = cost.at(steps)
    said = [f"{about} {shown(took)} of {shown(limit)}, {shown(cost.constant)} of it set-up and scoring"]
    if cost.steps(limit) < fewest:
        least = f"takes at least about {shown(took)}, more than --time {shown(limit)}"
        said = [f"{least}; this is the least that is worth it"]
        made = replace(made, warning=f"It {said[0]}.")
    said += [*fewer, *seeds]
    if steps < wanted:
        fits = f"as many as fit {shown(limit)} on this machine"
        why = f"{'the fewest that are worth it' if made.warning else fits}, instead of {wanted}"
        made = replace(made, steps=steps, comments={**made.comments, "steps": why})
        said.append(f"{steps} steps instead of {wanted}; with all, --time would have to be about {shown(whole)}")
        said += _left_out(less, limit, wanted, steps) if not seeds and made.left_out == draft.left_out else []
        unknown.append(f"whether {steps} steps are enough to tell methods apart, or for a method to learn at all")
    return Timed(made, [*said, rates, *_to_do(made)], unknown)


def _to_do(draft: Draft) -> Iterator[str]:
    """Yield what to do if a suite does not fit, or cannot answer."""
    few = draft.seed_count < LEAST_SEEDS and not draft.given.seeds
    if draft.warning or few:
        less = [what for what in ("methods", "limit") if not getattr(draft.given, what)]
        options = ["a larger --time", *(f"{'fewer' if what == 'methods' else 'a smaller'} --{what}" for what in less)]
        quiet = "or measure again when nothing else runs on this machine"
        why = f"; one seed is too few for `answer`, which needs {LEAST_SEEDS}" if few else ""
        yield f"what to do: give {' or '.join(options)}, {quiet}{why}"


def _measure(
    trials: Sequence[Trial], reader: Reader, seeds: int, limit: float, began: float | None
) -> tuple[Grid, list[str]]:
    """Run the pilots; return what they took, and what makes that uncertain."""
    from peftbench.runner import pilot

    waits: list[float] = []
    stopped: list[str] = []

    def observe(trial: Trial, result: Result) -> None:
        plan_time.tell(trial, result)
        stopped.extend([trial.cell] if result.row.status == Status.TIMEOUT else [])
        share = plan_time.waited(trial, result)
        waits.extend([] if share is None else [share])

    within = MEASURING * limit
    measured = pilot.measure(trials, observe, within, lambda: _say_how_long(len(trials), within, began))
    found = pilot.with_candidates(measured, trials, [candidate(trial) for trial in trials])
    pilot.store(found, "init --time")
    each = {trial.cell: found[pilot.shape(trial)] for trial in trials}
    busy = sum(waits) / len(waits) if waits else 0.0
    why = f"this machine is busy: threads waited for a CPU for {100 * busy:.0f} % of the time of the measured steps"
    own = [cell for cell in stopped if each[cell].problem not in (None, NO_TIME)]
    grid = Grid(trials, each, own, reader, seeds)
    idle = f"how long it takes on an idle machine; {why}; when other programs end, more steps fit"
    return grid, [idle] if busy > plan_time.BUSY else []


def _say_how_long(cells: int, within: float, began: float | None) -> None:
    """Print how long measuring takes at most, once the libraries are loaded, and what was before it."""
    from peftbench.runner import pilot

    whole = min(within, cells * pilot.LONGEST)
    part = f" ({100 * MEASURING:.0f} % of --time)" if within == whole else ""
    each = f", at most {shown(pilot.LONGEST)} of it for one cell" if cells > 1 and whole > pilot.LONGEST else ""
    said = f"measuring a few steps and scored examples of {plural(cells, 'cell')}: at most {shown(whole)}{part}{each}"
    before = "" if began is None else f"; reading and loading the libraries took {shown(time.monotonic() - began)}"
    print("\n".join(terminal.wrapped(f"{said}{before}", terminal.SENTENCES, "    ")), file=sys.stderr)


def _unscored(cells: Sequence[str]) -> Iterator[str]:
    if cells:
        pilots = agreeing(len(cells), "its pilot was", "their pilots were")
        yield (
            f"the scoring time of {series(cells)}: {pilots} stopped after the steps, so the scoring time of the "
            "slowest measured cell is used"
        )


def _guessed(cells: Sequence[str]) -> Iterator[str]:
    if cells:
        yield (
            f"the time of {series(cells)}: there was no time to measure {agreeing(len(cells), 'it', 'them')}, so the "
            "time of the slowest measured cell is used; `plan --time` measures all"
        )


def _nothing_measured(draft: Draft, grid: Grid, limit: float, unknown: Sequence[str]) -> Timed:
    """Return the smallest draft, if measuring was over before anything that trains had been measured."""
    trained = [trial.method for trial in grid.trials if trial.training]
    kept = [name for name in trained if name == _KEPT] + [name for name in trained if name != _KEPT]
    names = trained if draft.given.methods else kept[:_FEWEST_METHODS]
    why = f"no method could be measured in {shown(MEASURING * limit)}, so this is the smallest suite"
    made = draft
    for name in [name for name in trained if name not in names]:
        made = _without(made, name, "as there was no time to measure any method")
    if not draft.given.limit and grid.scored() > _FEWEST_SCORED:
        made = choose.limited(made, _FEWEST_SCORED)
    seeds = draft.given.seeds or 1
    steps = min(_FEWEST, draft.steps or ORDINARY)
    made = choose.with_seeds(made, seeds, None if draft.given.seeds else _ONE_SEED)
    comments = {**made.comments, "steps": f"the fewest that are worth it; {why}"}
    warning = f"How long it takes is not known: {why}."
    made = replace(made, steps=steps, comments=comments, warning=warning)
    return Timed(made, [warning.removesuffix("."), *_to_do(made)], unknown)


_ONE_SEED = f"too few for `answer`, which needs {LEAST_SEEDS}; there was no time for more"


def _reduced(draft: Draft, grid: Grid, limit: float, fewest: int) -> tuple[Draft, Grid, list[str]]:
    """Return a draft with as few seeds and methods less as are needed for the fewest steps to fit; else the smallest.

    Seeds go first, down to two; then methods, the one that takes most first; then the second seed.
    """
    said: list[str] = []
    if _fits(grid, limit, fewest):
        return draft, grid, said
    free_seeds, free_methods = not draft.given.seeds, not draft.given.methods
    before = grid.seeds
    if free_seeds and grid.seeds > LEAST_SEEDS:
        grid = replace(grid, seeds=LEAST_SEEDS)
    while free_methods and not _fits(grid, limit, fewest):
        trained = [trial for trial in grid.trials if trial.training]
        others = [trial for trial in reversed(trained) if trial.method != _KEPT]
        if len(trained) <= _FEWEST_METHODS:
            break
        slowest = max(others, key=lambda trial: grid.of(trial).at(fewest))
        took = shown(grid.of(slowest).at(fewest))
        draft = _without(draft, slowest.method, f"as it would take about {took} of {shown(limit)} with {fewest} steps")
        grid = grid.without(slowest.cell)
    if free_seeds and not _fits(grid, limit, fewest):
        grid = replace(grid, seeds=1)
    if grid.seeds < before:
        few = grid.seeds < LEAST_SEEDS
        why = _ONE_SEED if few else f"the least for `answer`; there was no time for {before}"
        said.insert(0, f"{plural(grid.seeds, 'seed')} instead of {before}: {why}")
        draft = choose.with_seeds(draft, grid.seeds, why)
    return draft, grid, said


def _fits(grid: Grid, limit: float, steps: int) -> bool:
    return grid.cost().at(steps) <= limit


def _without(draft: Draft, method: str, why: str) -> Draft:
    """Return a draft without a method, with the reason."""
    methods = tuple(line for line in draft.methods if line.name != method)
    return replace(draft, methods=methods, left_out=(*draft.left_out, (method, why)))


def _fewer_scored(draft: Draft, grid: Grid, limit: float) -> tuple[Draft, Grid, list[str]]:
    """Return a draft that scores fewer examples, if scoring would take too much of the time."""
    count = grid.scored()
    if draft.given.limit:
        return draft, grid, []
    half = grid.scoring(max(1, count // 2))
    each = (grid.cost().constant - half.cost().constant) / max(1, count - half.scored())
    most = max(_FEWEST_SCORED, int(_SCORING * limit / each) // 10 * 10) if each > 0 else count
    if most >= count or len(grid.trials[0].tasks) > 1:
        return draft, grid, []
    said = f"{most} test examples are scored (limit) instead of {count:,}, so that there is time to train"
    return choose.limited(draft, most), grid.scoring(most), [said]


def _left_out(grid: Grid, limit: float, wanted: int, steps: int) -> list[str]:
    """Return how many steps would fit without the slowest method, if it takes much of the time."""
    trained = [trial for trial in grid.trials if trial.training]
    slowest = max(trained, key=lambda trial: grid.of(trial).at(steps))
    took = grid.of(slowest).at(steps)
    if len(trained) < 3 or took < _LARGE * limit:
        return []
    more = min(wanted, grid.without(slowest.cell).cost().steps(limit))
    if more <= steps:
        return []
    return [f"{slowest.cell} takes about {shown(took)} of it; without its line under methods, {more} steps would fit"]
