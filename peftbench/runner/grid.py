"""Run a grid's pending trials, store each result as it arrives, and summarize the run. No torch."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peftbench.records import Phase, Result, Status, TrialRow
from peftbench.report.notes import data_use
from peftbench.results import store
from peftbench.runner import executor
from peftbench.runner.executor import Event, local
from peftbench.runner.prepare import Grid

_COMPACT_EVERY = 500
"""Trials between two compactions of the results folder."""


@dataclass(frozen=True)
class Outcome:
    """The summary of a run of a grid."""

    statuses: dict[str, int]
    """Rows per status over the whole grid, including those of earlier runs."""
    overhead_seconds: float | None
    """Median, over this run's ok trials, of the wall time outside their own work; None if there are none."""
    failed: tuple[Result, ...]
    """This run's results that are neither ok nor unsupported."""
    data: tuple[str, ...] = ()
    """Sentences about the data use of the grid's trials, including those of earlier runs."""


def run(grid: Grid, observe: Callable[[Event], None]) -> Outcome:
    """Run the pending trials, store each result as it arrives, and pass each event to ``observe``."""
    results: list[Result] = []
    possible = [job for job in grid.pending if job.trial.unsupported is None]
    try:
        for job in grid.pending:
            if job.trial.unsupported is not None:
                result = local.failure(job, Status.UNSUPPORTED, Phase.PLAN, job.trial.unsupported)
                results.append(_stored(grid, result))
                observe(Event(job, Phase.PLAN, result=result))
        for event in local.run(possible, grid.workers):
            if event.result is not None:
                results.append(_stored(grid, event.result))
                _tidy_log(event)
                if len(results) % _COMPACT_EVERY == 0:
                    store.compact(grid.folder)
            observe(event)
    finally:
        store.compact(grid.folder)
    return _outcome(grid, results)


def _stored(grid: Grid, result: Result) -> Result:
    store.write(grid.folder, result, grid.tasks)
    return result


def _outcome(grid: Grid, results: Sequence[Result]) -> Outcome:
    trials = store.read_trials(grid.folder)
    keys = {job.key for job in grid.jobs}
    statuses = Counter(trials.loc[trials["key"].isin(keys), "status"])
    overheads = [overhead for r in results if (overhead := overhead_seconds(r.row)) is not None]
    failed = tuple(r for r in results if r.row.status not in (Status.OK, Status.UNSUPPORTED))
    notes = data_use.sentences(trials[trials["key"].isin(keys)])
    return Outcome(dict(statuses), statistics.median(overheads) if overheads else None, failed, notes)


def overhead_seconds(row: TrialRow) -> float | None:
    """Return the wall time of an ok trial outside its own work; None for other trials."""
    if row.status != Status.OK or row.wall_seconds is None:
        return None
    return row.wall_seconds - sum(getattr(row, phase.column) or 0.0 for phase in Phase if phase.own_work)


def _tidy_log(event: executor.Event) -> None:
    """Delete the log of a trial that ended ok; the log of a failed trial is kept."""
    if event.job.log and event.result and event.result.row.status == Status.OK:
        Path(event.job.log).unlink(missing_ok=True)
