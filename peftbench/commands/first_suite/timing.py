"""Choose steps, scored examples and a search of learning rates that fit a time, from pilots on this machine."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from peftbench.commands import plan_time
from peftbench.commands.first_suite import choose
from peftbench.commands.first_suite.draft import Draft
from peftbench.errors import UserError
from peftbench.records import Result, Status, Trial
from peftbench.records.units import seconds as shown
from peftbench.records.wording import plural
from peftbench.runner.pilot import Measured
from peftbench.tasks.read import Reader

CANDIDATES = 5
"""Learning rates that ``learning_rate: search`` tries for each cell."""
_SHARE = 0.5
"""Share of the steps that a candidate trains for."""
_FEWEST = 20
"""Fewest steps that are worth running."""
_FEWEST_SCORED = 100
"""Fewest test examples of a task that are still scored to save time."""
_SCORING = 0.25
"""Share of the time that scoring may take if there is too little for all steps."""
_LARGE = 0.25
"""Share of the time from which a method is named as what could be left out."""


@dataclass(frozen=True)
class _Cost:
    """The time of a cell or of the grid, in seconds: it is linear in the number of steps."""

    constant: float = 0.0
    per_step: float = 0.0

    def __add__(self, other: _Cost) -> _Cost:
        return _Cost(self.constant + other.constant, self.per_step + other.per_step)

    def steps(self, limit: float) -> int:
        """Return the most steps within a time."""
        return int((limit - self.constant) / self.per_step) if self.per_step > 0 else 0

    def at(self, steps: int) -> float:
        """Return the time with some steps."""
        return self.constant + self.per_step * steps


@dataclass(frozen=True)
class _Grid:
    """What pilots say of a grid's cells."""

    trials: Sequence[Trial]
    """One of each cell."""
    found: Mapping[str, Measured]
    """Cell -> what its pilot took."""
    stopped: Sequence[str]
    """Cells whose pilot did not end in time."""
    reader: Reader
    seeds: int

    def known(self) -> _Grid:
        """Return the cells of which the time is known."""
        return replace(self, trials=[trial for trial in self.trials if self._seconds(trial, True, 100) is not None])

    def unknown(self, limit: float) -> list[str]:
        """Return of which cells the time is not known and why, and what that means for the limit."""
        from peftbench.runner import pilot

        known = {trial.cell for trial in self.known().trials}
        others = {
            trial.cell: self.found[trial.cell].problem or pilot.NO_STEP
            for trial in self.trials
            if trial.cell not in known
        }
        if not others:
            return []
        said = [f"the time of {cell}: {problem}" for cell, problem in others.items()]
        count = sum(self.seeds if trial.training else 1 for trial in self.trials if trial.cell in self.stopped)
        if count * pilot.LONGEST > limit:
            least = f"their {count} trials take at least {shown(count * pilot.LONGEST)}"
            return [*said, f"a suite that fits {shown(limit)}: {least}, and the steps here are those without --time"]
        return [*said, f"whether {shown(limit)} are enough, as the time of {plural(len(others), 'cell')} is not known"]

    def scoring(self, most: int) -> _Grid:
        """Return the grid with at most this many scored examples of each task."""
        trials = [
            replace(trial, tasks=tuple(replace(task, limit=min(task.limit or most, most)) for task in trial.tasks))
            for trial in self.trials
        ]
        return replace(self, trials=trials)

    def without(self, cell: str) -> _Grid:
        """Return the grid without a cell."""
        return replace(self, trials=[trial for trial in self.trials if trial.cell != cell])

    def scored(self) -> int:
        """Return the number of scored examples of a trial."""
        trial = self.trials[0]
        return sum(len(self.reader(task, trial.evaluation.split)) for task in trial.tasks)

    def cost(self, with_search: bool = False) -> _Cost:
        """Return the time of the whole grid."""
        return sum((self.of(trial, with_search) for trial in self.trials), _Cost())

    def of(self, trial: Trial, with_search: bool = False) -> _Cost:
        """Return the time of a cell with all its seeds."""
        low, high = 100, 300

        def total(steps: int) -> float:
            whole = self._seconds(trial, True, steps) or 0.0
            if trial.training:
                whole += (self.seeds - 1) * (self._seconds(trial, False, steps) or 0.0)
            if trial.training and with_search:
                whole += CANDIDATES * (self._seconds(_candidate(trial), True, max(1, round(_SHARE * steps))) or 0.0)
            return whole

        slope = (total(high) - total(low)) / (high - low)
        return _Cost(total(low) - slope * low, slope)

    def _seconds(self, trial: Trial, first: bool, steps: int) -> float | None:
        from peftbench.runner import pilot

        training = trial.training and replace(trial.training, steps=steps)
        return pilot.seconds(replace(trial, training=training), self.found[trial.cell], first, self.reader)


def fit(
    draft: Draft, trials: Sequence[Trial], limit: float, reader: Reader, records: int
) -> tuple[Draft, list[str], list[str]]:
    """Return a draft whose grid fits a time, what was chosen, and what could not be known.

    Seeds stay three: with fewer, no spread is known. If there is time, learning rates are searched; if there is too
    little, fewer examples are scored, and there are fewer steps.

    Args:
        draft: the draft with its methods.
        trials: one trial of each cell.
        limit: in seconds.
        reader: returns a split's examples.
        records: number of training records.

    Raises:
        UserError: if not even a few steps fit.
    """
    every, busy = _measure(trials, reader, draft.seeds)
    grid, unknown = every.known(), [*every.unknown(limit), *busy]
    if not any(trial.training for trial in grid.trials):
        return draft, [], unknown
    wanted = draft.steps or 100
    searched = grid.cost(with_search=True).at(wanted)
    if searched <= limit:
        made = choose.with_search(draft, records)
        return made, [f"about {shown(searched)} of {shown(limit)}, with a search of learning rates"], unknown
    whole = grid.cost().at(wanted)
    rates = f"no time for a search of learning rates (about {shown(searched)}), so they are untuned defaults"
    if whole <= limit:
        return draft, [f"about {shown(whole)} of {shown(limit)}", rates], unknown
    draft, grid, fewer = _fewer_scored(draft, grid, limit)
    cost = grid.cost()
    steps = min(wanted, cost.steps(limit))
    if steps < min(_FEWEST, wanted):
        lines = (f"not known: {line}" for line in unknown)
        raise UserError("\n".join([_too_little(grid, limit, min(_FEWEST, wanted)), *lines]))
    said = [f"about {shown(cost.at(steps))} of {shown(limit)}, {shown(cost.constant)} of it set-up and scoring", *fewer]
    if steps < wanted:
        comments = {**draft.comments, "steps": f"as many as fit {shown(limit)} on this machine, in place of {wanted}"}
        draft = replace(draft, steps=steps, comments=comments)
        said.append(f"{steps} steps in place of {wanted}, for which --time would have to be about {shown(whole)}")
        said += _left_out(grid, limit, wanted, steps)
        unknown.append(f"whether {steps} steps are enough to tell methods apart, or for a method to learn at all")
    return draft, [*said, rates], unknown


def _measure(trials: Sequence[Trial], reader: Reader, seeds: int) -> tuple[_Grid, list[str]]:
    """Run the pilots; return what they took, and what makes that uncertain."""
    from peftbench.runner import pilot

    waits: list[float] = []
    stopped: list[str] = []

    def observe(trial: Trial, result: Result) -> None:
        plan_time.tell(trial, result)
        row = result.row
        stopped.extend([trial.cell] if row.status == Status.TIMEOUT else [])
        share = plan_time.waited(trial, result)
        waits.extend([] if share is None else [share])

    most = f"{pilot.LONGEST:.0f} s"
    print(f"measuring a few steps and scored examples of {len(trials)} cells, at most {most} each", file=sys.stderr)
    found = pilot.with_candidates(pilot.measure(trials, observe), trials, [_candidate(trial) for trial in trials])
    pilot.store(found, "init --time")
    each = {trial.cell: found[pilot.shape(trial)] for trial in trials}
    busy = sum(waits) / len(waits) if waits else 0.0
    why = f"how long it takes on an idle machine: other programs took {busy:.0%} of the CPU time of the measured steps"
    grid = _Grid(trials, each, stopped, reader, seeds)
    return grid, [f"{why}; when they end, more steps fit"] if busy > plan_time.BUSY else []


def _fewer_scored(draft: Draft, grid: _Grid, limit: float) -> tuple[Draft, _Grid, list[str]]:
    """Return a draft that scores fewer examples, if scoring would take too much of the time."""
    count = grid.scored()
    half = grid.scoring(max(1, count // 2))
    each = (grid.cost().constant - half.cost().constant) / max(1, count - half.scored())
    most = max(_FEWEST_SCORED, int(_SCORING * limit / each) // 10 * 10) if each > 0 else count
    if most >= count or len(grid.trials[0].tasks) > 1:
        return draft, grid, []
    said = f"{most} test examples are scored (limit) in place of {count:,}, so that there is time to train"
    return choose.limited(draft, most), grid.scoring(most), [said]


def _candidate(trial: Trial) -> Trial:
    """Return a trial as a search has it: without inference cost and retention."""
    return replace(trial, candidate_of=trial.cell, inference=False, retention=None)


def _left_out(grid: _Grid, limit: float, wanted: int, steps: int) -> list[str]:
    """Return how many steps would fit without the slowest method, if it takes much of the time."""
    trained = [trial for trial in grid.trials if trial.training]
    slowest = max(trained, key=lambda trial: grid.of(trial).at(steps))
    took = grid.of(slowest).at(steps)
    if len(trained) < 3 or took < _LARGE * limit:
        return []
    more = min(wanted, grid.without(slowest.cell).cost().steps(limit))
    return [f"{slowest.cell} takes about {shown(took)} of it; without its line under methods, {more} steps would fit"]


def _too_little(grid: _Grid, limit: float, fewest: int) -> str:
    cost, cells = grid.cost(), plural(len(grid.trials), "cell")
    slowest = max(grid.trials, key=lambda trial: grid.of(trial).at(fewest))
    return (
        f"--time: {shown(limit)} are too little: {fewest} steps of {cells} with {grid.seeds} seeds take about "
        f"{shown(cost.at(fewest))} on this machine, {shown(cost.constant)} of it set-up and scoring; the slowest is "
        f"{slowest.cell} with {shown(grid.of(slowest).at(fewest))}; give more time, or no --time, and then leave out "
        "methods or seeds"
    )
