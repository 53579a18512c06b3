"""Choose steps, seeds and a search of learning rates that fit a time, from pilots on this machine."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from peftbench.commands.first_suite import choose
from peftbench.commands.first_suite.draft import Draft
from peftbench.errors import UserError
from peftbench.records import Result, Status, Trial
from peftbench.records.units import seconds as shown
from peftbench.tasks.read import Reader

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(hours?|h|minutes?|min|m|seconds?|sec|s)")
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0}
CANDIDATES = 5
"""Learning rates that ``learning_rate: search`` tries for each cell."""
_SHARE = 0.5
"""Share of the steps that a candidate trains for."""
_FEWEST = 20
"""Fewest steps that are worth running."""


def duration(text: str) -> float:
    """Return a time like ``2h``, ``90min`` or ``1h30m`` in seconds.

    Raises:
        UserError: if it is none, or not above 0.
    """
    parts = _DURATION.findall(text.strip().lower())
    left = _DURATION.sub("", text.strip().lower()).strip()
    found = sum(float(number) * _UNITS[unit[0]] for number, unit in parts)
    if left or not found:
        raise UserError(f"--time: given {text!r}; allowed: a time like 2h, 90min or 1h30m")
    return found


@dataclass(frozen=True)
class _Costs:
    """The time of the grid: it is linear in the number of steps."""

    constant: float
    per_step: float

    def steps(self, limit: float) -> int:
        """Return the most steps within a time."""
        return int((limit - self.constant) / self.per_step) if self.per_step > 0 else 0

    def at(self, steps: int) -> float:
        """Return the time with some steps, in seconds."""
        return self.constant + self.per_step * steps


def fit(
    draft: Draft, trials: Sequence[Trial], limit: float, reader: Reader, records: int
) -> tuple[Draft, list[str], list[str]]:
    """Return a draft whose grid fits a time, what was chosen, and what could not be known.

    Seeds stay three: with fewer, no spread is known. If there is time, learning rates are searched; if there is too
    little, there are fewer steps.

    Args:
        draft: the draft with its methods.
        trials: one trial of each cell.
        limit: in seconds.
        reader: returns a split's examples.
        records: number of training records.

    Raises:
        UserError: if not even a few steps fit.
    """
    from peftbench.runner import pilot

    def observe(trial: Trial, result: Result) -> None:
        row = result.row
        ended = f"ok in {shown(row.wall_seconds)}" if row.status == Status.OK else pilot.why_not(row)
        print(f"pilot of {trial.cell}: {ended}", file=sys.stderr)

    found = pilot.with_candidates(pilot.measure(trials, observe), trials, [_candidate(trial) for trial in trials])
    pilot.store(found)

    def cost(trial: Trial, first: bool, steps: int) -> float | None:
        training = trial.training and replace(trial.training, steps=steps)
        return pilot.seconds(replace(trial, training=training), found[pilot.shape(trial)], first, reader)

    known = {trial.cell: trial for trial in trials if cost(trial, True, 100) is not None}
    unknown = [
        f"the time of {trial.cell}: {found[pilot.shape(trial)].problem}" for trial in trials if trial.cell not in known
    ]
    if not any(trial.training for trial in known.values()):
        return draft, [], [*unknown, f"whether {shown(limit)} are enough"]
    wanted = draft.steps or 100
    searched, plain = (_costs(list(known.values()), draft.seeds, cost, with_search) for with_search in (True, False))
    if searched.at(wanted) <= limit:
        made = choose.with_search(draft, records)
        return made, [f"{shown(searched.at(wanted))} of {shown(limit)}, with a search of learning rates"], unknown
    steps = min(wanted, plain.steps(limit))
    if steps < min(_FEWEST, wanted):
        least = shown(plain.at(min(_FEWEST, wanted)))
        raise UserError(
            f"--time: {shown(limit)} are too little: {min(_FEWEST, wanted)} steps of every method with {draft.seeds} "
            f"seeds take about {least} on this machine; give more time, or a smaller test file"
        )
    said = f"{shown(plain.at(steps))} of {shown(limit)}"
    if steps < wanted:
        comments = {**draft.comments, "steps": f"as many as fit {shown(limit)} on this machine"}
        draft = replace(draft, steps=steps, comments=comments)
        said += f", with {steps} steps in place of {wanted}"
    return draft, [f"{said}; no time for a search of learning rates, so they are untuned defaults"], unknown


def _costs(
    trials: Sequence[Trial], seeds: int, cost: Callable[[Trial, bool, int], float | None], with_search: bool
) -> _Costs:
    """Return the time of a grid from the time of each cell's trials at two numbers of steps."""

    def total(steps: int) -> float:
        whole = 0.0
        for trial in trials:
            later = seeds - 1 if trial.training else 0
            whole += (cost(trial, True, steps) or 0.0) + later * (cost(trial, False, steps) or 0.0)
            if with_search and trial.training:
                whole += CANDIDATES * (cost(_candidate(trial), True, max(1, round(_SHARE * steps))) or 0.0)
        return whole

    low, high = 100, 300
    slope = (total(high) - total(low)) / (high - low)
    return _Costs(total(low) - slope * low, slope)


def _candidate(trial: Trial) -> Trial:
    """Return a trial as a search has it: without inference cost and retention."""
    return replace(trial, candidate_of=trial.cell, inference=False, retention=None)
