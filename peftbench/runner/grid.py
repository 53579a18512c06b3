"""Run what a grid has pending, store each result as it comes, and say what came of it. No torch."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peftbench.records import Result, Status
from peftbench.report.notes import data_use
from peftbench.results import store
from peftbench.runner import executor
from peftbench.runner.executor import Event, local
from peftbench.runner.prepare import Grid

_COMPACT_EVERY = 500
"""Trials between two compactions of the results folder."""
_OUTSIDE = ("plan", "load", "train", "validate", "account", "check", "evaluate", "retention", "inference")
"""Phases that are the trial's own work; the rest of its wall time is overhead."""


@dataclass(frozen=True)
class Outcome:
    """What a run of a grid came to."""

    statuses: dict[str, int]
    """Rows per status, over the whole grid, earlier runs included."""
    overhead_seconds: float | None
    """Median over this run's ok trials of the time outside their own work; None where none ran."""
    failed: tuple[Result, ...]
    """This run's rows that are neither ok nor unsupported."""
    data: tuple[str, ...] = ()
    """Sentences about what the grid's trials saw of their data, earlier runs included."""


def run(grid: Grid, observe: Callable[[Event], None]) -> Outcome:
    """Run what is pending, store each result as it comes, and tell the observer what happens."""
    results: list[Result] = []
    possible = [job for job in grid.pending if job.trial.unsupported is None]
    try:
        for job in grid.pending:
            if job.trial.unsupported is not None:
                result = local.failure(job, Status.UNSUPPORTED, "plan", job.trial.unsupported)
                results.append(_stored(grid, result))
                observe(Event(job, "plan", result=result))
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
    overheads = []
    for row in (r.row for r in results if r.row.status == Status.OK):
        if row.wall_seconds is not None:
            overheads.append(row.wall_seconds - sum(getattr(row, f"{name}_seconds") or 0.0 for name in _OUTSIDE))
    failed = tuple(r for r in results if r.row.status not in (Status.OK, Status.UNSUPPORTED))
    told = data_use.sentences(trials[trials["key"].isin(keys)])
    return Outcome(dict(statuses), statistics.median(overheads) if overheads else None, failed, told)


def _tidy_log(event: executor.Event) -> None:
    """Keep the log of a trial that failed; an ok trial's is of no more use."""
    if event.job.log and event.result and event.result.row.status == Status.OK:
        Path(event.job.log).unlink(missing_ok=True)
