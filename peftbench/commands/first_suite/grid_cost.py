"""What a grid of a new suite costs in time, from pilots on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from peftbench.records import Trial
from peftbench.records.units import seconds as shown
from peftbench.records.wording import plural
from peftbench.runner.pilot import NO_TIME, Measured
from peftbench.tasks.read import Reader

CANDIDATES = 5
"""Learning rates that ``learning_rate: search`` tries for each cell."""
_SHARE = 0.5
"""Share of the steps that a candidate trains for."""
ORDINARY = 100
"""Steps with which the times of cells are compared, and of a draft that does not say."""


@dataclass(frozen=True)
class Cost:
    """The time of a cell or of the grid, in seconds: it is linear in the number of steps."""

    constant: float = 0.0
    per_step: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.constant + other.constant, self.per_step + other.per_step)

    def steps(self, limit: float) -> int:
        """Return the most steps within a time; 0 if not even what is beside them fits."""
        return max(0, int((limit - self.constant) / self.per_step)) if self.per_step > 0 else 0

    def at(self, steps: int) -> float:
        """Return the time with some steps."""
        return self.constant + self.per_step * steps


@dataclass(frozen=True)
class Grid:
    """What pilots say of a grid's cells."""

    trials: Sequence[Trial]
    """One of each cell."""
    found: Mapping[str, Measured]
    """Cell -> what its pilot took."""
    stopped: Sequence[str]
    """Cells whose pilot did not end in time."""
    reader: Reader
    seeds: int

    def assumed(self) -> tuple[Grid, list[str], list[str]]:
        """Return the grid in which cells that there was no time to measure take as long as the slowest measured one.

        One that was stopped after its steps keeps these.

        Returns:
            The grid; the cells whose whole time is that of the slowest; the cells whose time is, except for their own
            measured steps. Both are empty if nothing that trains was measured.
        """
        trained = [trial for trial in self.known().trials if trial.training]
        lacking = {*self.unmeasured(), *self.stopped}
        if not lacking or not trained:
            return self, [], []
        slowest = self.found[max(trained, key=lambda trial: self.of(trial).at(ORDINARY)).cell]
        whole = [cell for cell in self.unmeasured() if self.found[cell].step_seconds is None]
        stepped = [t.cell for t in self.trials if t.cell in lacking and self.found[t.cell].step_seconds is not None]
        slowest = replace(slowest, incomplete=None)  # that is said once, of the cell itself
        same = dict.fromkeys(whole, slowest)
        same |= {cell: replace(slowest, step_seconds=self.found[cell].step_seconds) for cell in stepped}
        return replace(self, found={**self.found, **same}), whole, stepped

    def unmeasured(self) -> list[str]:
        """Return the cells that there was no time to measure."""
        return [trial.cell for trial in self.trials if self.found[trial.cell].problem == NO_TIME]

    def known(self) -> Grid:
        """Return the cells of which the time is known."""
        known = [trial for trial in self.trials if self._seconds(trial, True, ORDINARY) is not None]
        return replace(self, trials=known)

    def unknown(self, limit: float) -> list[str]:
        """Return of which cells the time is not known and why, and what that means for the limit."""
        from peftbench.runner import pilot

        known = {trial.cell for trial in self.known().trials}
        others = {
            trial.cell: problem
            for trial in self.trials
            if trial.cell not in known and (problem := self.found[trial.cell].problem or pilot.NO_STEP) != NO_TIME
        }
        least = {trial.cell: self.found[trial.cell].incomplete for trial in self.known().trials}
        parts = [f"all of the time of {cell}: {why}" for cell, why in least.items() if why]
        if not others:
            return parts
        said = [*parts, *(f"the time of {cell}: {problem}" for cell, problem in others.items())]
        stopped = [trial for trial in self.trials if trial.cell in self.stopped]
        limits = pilot.limits(self.trials)
        counts = [self.seeds if trial.training else 1 for trial in stopped]
        fewest = sum(count * limits[pilot.shape(trial)] for count, trial in zip(counts, stopped, strict=True))
        if fewest > limit:
            takes = f"the {sum(counts)} trials of the cells whose pilots were stopped take at least {shown(fewest)}"
            return [*said, f"whether any suite with these cells fits {shown(limit)}: {takes}"]
        return [*said, f"whether {shown(limit)} are enough, as the time of {plural(len(others), 'cell')} is not known"]

    def scoring(self, most: int) -> Grid:
        """Return the grid with at most this many scored examples of each task."""
        trials = [
            replace(trial, tasks=tuple(replace(task, limit=min(task.limit or most, most)) for task in trial.tasks))
            for trial in self.trials
        ]
        return replace(self, trials=trials)

    def without(self, cell: str) -> Grid:
        """Return the grid without a cell."""
        return replace(self, trials=[trial for trial in self.trials if trial.cell != cell])

    def scored(self) -> int:
        """Return the number of scored examples of a trial."""
        trial = self.trials[0]
        return sum(len(self.reader(task, trial.evaluation.split)) for task in trial.tasks)

    def cost(self, with_search: bool = False) -> Cost:
        """Return the time of the whole grid."""
        return sum((self.of(trial, with_search) for trial in self.trials), Cost())

    def of(self, trial: Trial, with_search: bool = False) -> Cost:
        """Return the time of a cell with all its seeds."""
        low, high = ORDINARY, 3 * ORDINARY

        def total(steps: int) -> float:
            whole = self._seconds(trial, True, steps) or 0.0
            if trial.training:
                whole += (self.seeds - 1) * (self._seconds(trial, False, steps) or 0.0)
            if trial.training and with_search:
                whole += CANDIDATES * (self._seconds(candidate(trial), True, max(1, round(_SHARE * steps))) or 0.0)
            return whole

        slope = (total(high) - total(low)) / (high - low)
        return Cost(total(low) - slope * low, slope)

    def _seconds(self, trial: Trial, first: bool, steps: int) -> float | None:
        from peftbench.runner import pilot

        training = trial.training and replace(trial.training, steps=steps)
        return pilot.seconds(replace(trial, training=training), self.found[trial.cell], first, self.reader)


def candidate(trial: Trial) -> Trial:
    """Return a trial as a search has it: without inference cost and retention."""
    return replace(trial, candidate_of=trial.cell, inference=False, retention=None)
