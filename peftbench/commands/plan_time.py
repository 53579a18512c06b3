"""``peftbench plan --time``: pilots of a few steps, and from them the minutes of each trial and of the grid."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftbench.records import Result, Status, Trial
from peftbench.records.units import MISSING
from peftbench.records.units import seconds as shown
from peftbench.records.wording import abridged, series
from peftbench.report import text_table
from peftbench.results.busy_machine import waiting_share

if TYPE_CHECKING:
    from peftbench.runner.pilot import Measured
    from peftbench.tasks.read import Reader


SEARCH = "learning-rate search"
"""The name of the search among the cells."""
BUSY = 0.1
"""Share of the CPU time that others take from which predictions are said to be too long."""


@dataclass(frozen=True)
class CellTime:
    """The predicted time of a cell."""

    cell: str
    trials: int
    trial_seconds: float | None
    """A trial after the first of its cell; None if it is not known."""
    total_seconds: float | None
    step_seconds: float | None
    problem: str | None = None
    in_part: bool = False
    """Whether the times are at least these."""


def predict(trials: Sequence[Trial], candidates: Sequence[Trial], reader: Reader) -> list[CellTime]:
    """Return the time of each cell and of the learning-rate search; pilots are run, and what they took is kept.

    Args:
        trials: the trials of the grid that can run.
        candidates: those of its learning-rate search.
        reader: returns a split's examples.
    """
    from peftbench.runner import pilot

    found = pilot.with_candidates(pilot.measure(trials, tell), trials, candidates)
    pilot.store(found)
    return _times(trials, candidates, found, reader)


def known(trials: Sequence[Trial], candidates: Sequence[Trial], reader: Reader, workers: int) -> str:
    """Return how long a grid takes by what earlier commands measured on this machine; else what measures it.

    Args:
        trials: the trials of the grid that can run.
        candidates: those of its learning-rate search.
        reader: returns a split's examples.
        workers: trials at the same time.
    """
    from peftbench.runner import pilot

    found = pilot.stored()
    cells = _times(trials, candidates, found, reader) if found else []
    unknown = [each for each in cells if each.total_seconds is None]
    used = [one for trial in (*trials, *candidates) if (one := found.get(pilot.shape(trial))) and not one.unsupported]
    failed = any(each.problem for each in used)  # its pilot was run, and did not tell
    if not cells or (unknown and not failed):
        return "time: not known; --time measures a few steps of each cell and predicts it"
    several = len(unknown) > 1  # the search then has the reasons of the cells
    why = abridged([e.cell if several and e.cell == SEARCH else f"{e.cell} ({e.problem})" for e in unknown], 3)
    if len(unknown) == len(cells):
        return f"time: not known: {why}"
    least = "at least " if unknown or any(each.in_part for each in cells) else ""
    whole = sum(each.total_seconds or 0.0 for each in cells) / workers
    by = measured_by(each.made_by for each in used if not each.problem)
    said = f"time: {least}about {shown(whole)} (measured by {by} on this machine)"
    return f"{said}; not known: {why}" if unknown else said


def measured_by(names: Iterable[str]) -> str:
    """Return the commands that ran pilots, like "`init --time`", in words; names may be empty."""
    named = [f"`{name}`" for name in dict.fromkeys(names) if name]
    return series(named) if named else "an earlier command"


def _times(
    trials: Sequence[Trial], candidates: Sequence[Trial], found: Mapping[str, Measured], reader: Reader
) -> list[CellTime]:
    """Return the time of each cell and of the learning-rate search, from what pilots took."""
    cells = [_cell(cell, group, found, reader) for cell, group in _groups(trials).items()]
    if candidates:
        several = [_cell(cell, group, found, reader) for cell, group in _groups(candidates).items()]
        total = _sum([each.total_seconds for each in several])
        unknown = [f"{each.cell}: {each.problem}" for each in several if each.total_seconds is None]
        cells.append(CellTime(SEARCH, len(candidates), None, total, None, "; ".join(unknown) or None))
    return cells


def keep_unsupported(trials: Sequence[Trial], reasons: Mapping[str, str]) -> None:
    """Keep that trials of some cells, or of their searches, end unsupported, so that a run can tell the time left."""
    from peftbench.runner import pilot

    named = [(trial, reasons.get(trial.candidate_of or trial.cell)) for trial in trials]
    pilot.store({pilot.shape(trial): pilot.unsupported(reason) for trial, reason in named if reason})


def tell(trial: Trial, result: Result) -> None:
    """Print how long a pilot took, and whether other programs took its CPU time."""
    from peftbench.runner import pilot

    row = result.row
    share = waited(trial, result)
    busy = f", {100 * share:.0f} % of its steps waiting for a CPU" if share is not None and share > BUSY else ""
    ended = f"ok in {shown(row.wall_seconds)}" if row.status == Status.OK else pilot.why_not(row)
    print(f"measured {trial.cell}: {ended}{busy}", file=sys.stderr)


def waited(trial: Trial, result: Result) -> float | None:
    """Return the share of a pilot's steps in which threads waited for a CPU; None if it is not known."""
    row = result.row
    times = {"train_waiting_seconds": row.train_waiting_seconds, "train_seconds": row.train_seconds}
    return waiting_share({**times, "threads": trial.threads, "device": trial.device})


def _groups(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.candidate_of or trial.cell, []).append(trial)
    return groups


def _cell(cell: str, group: Sequence[Trial], found: Mapping[str, Measured], reader: Reader) -> CellTime:
    from peftbench.runner import pilot

    known = found.get(pilot.shape(group[0]))
    if known is None:
        return CellTime(cell, len(group), None, None, None, "no pilot was run")
    seen: set[str] = set()
    each = []
    for trial in group:  # of a search, the candidates of a cell: each is a cell of its own to the runner
        each.append(pilot.seconds(trial, known, trial.cell not in seen, reader))
        seen.add(trial.cell)
    whole = _sum(each)
    problem = known.problem or (pilot.NO_STEP if whole is None else known.incomplete)
    return CellTime(cell, len(group), each[-1], whole, known.step_seconds, problem, known.incomplete is not None)


def _sum(values: Sequence[float | None]) -> float | None:
    return None if None in values else sum(value or 0.0 for value in values)


def total(cells: Sequence[CellTime], workers: int) -> float | None:
    """Return how long the whole grid takes; None if some cell is not known."""
    whole = _sum([each.total_seconds for each in cells])
    return None if whole is None else whole / workers


def lines(cells: Sequence[CellTime], workers: int) -> list[str]:
    """Return the table of times and what it is."""
    head = ["cell", "trials", "step", "trial", "all"]
    rows = [
        [
            each.cell,
            f"{each.trials:,}",
            MISSING if each.step_seconds is None else f"{1000 * each.step_seconds:,.0f} ms",
            shown(each.trial_seconds),
            shown(each.total_seconds),
        ]
        for each in cells
    ]
    known = [each.total_seconds for each in cells if each.total_seconds is not None]
    least = "at least " if len(known) < len(cells) or any(each.in_part for each in cells) else ""
    rows.append(["the grid", f"{sum(each.trials for each in cells):,}", "", "", least + shown(sum(known) / workers)])
    text = list(text_table.lines([head, *rows], text_table.Layout(right=range(1, len(head)))))
    return [
        *text,
        *(
            f"{each.cell}: {'not known: ' * (each.total_seconds is None)}{each.problem}"
            for each in cells
            if each.problem
        ),
        "step: mean of a few training steps; trial: one trial after the first of its cell; all: all trials of a cell,",
        "scoring included. Measured now on this machine, in trials of a few steps and scored examples; other programs",
        "that run now make it too long. `peftbench run` tells afterwards how far off it was.",
    ]
