"""Run a grid's pending trials, store each result as it arrives, and summarize the run. No torch."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from peftbench import interrupts
from peftbench.methods import deployed_forms
from peftbench.records import Job, Phase, Result, Status, TrialRow
from peftbench.records.failures import of_log
from peftbench.report.notes import data_use
from peftbench.results import store
from peftbench.runner import executor, leftovers, training_states
from peftbench.runner.executor import Event, local
from peftbench.runner.prepare import Grid

Execute = Callable[[Sequence[Job], int], Iterator[Event]]
"""Runs jobs and yields what happens."""
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
    """This run's results that are neither ok nor unsupported, without their steps and examples."""
    data: tuple[str, ...] = ()
    """Sentences about the data use of the grid's trials, including those of earlier runs."""


@dataclass
class _Kept:
    """What stays in memory of the results of a run: little for each, since they are stored and a run may have many."""

    count: int = 0
    overheads: list[float] = field(default_factory=list)
    failed: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Keep a stored result's overhead, and its row if it failed."""
        self.count += 1
        overhead = overhead_seconds(result.row)
        if overhead is not None:
            self.overheads.append(overhead)
        if result.row.status not in (Status.OK, Status.UNSUPPORTED):
            self.failed.append(replace(result, steps=(), examples=()))


def run(grid: Grid, observe: Callable[[Event], None], execute: Execute | None = None) -> Outcome:
    """Run the pending trials, store each result as it arrives, and pass each event to ``observe``.

    Args:
        grid: what is run.
        observe: called with each event after a result is stored.
        execute: runs jobs, at most so many at a time; the local executor if None.
    """
    kept = _Kept()
    possible = [job for job in grid.pending if job.trial.unsupported is None]
    try:
        for job in grid.pending:
            if job.trial.unsupported is not None:
                result = local.failure(job, Status.UNSUPPORTED, Phase.PLAN, job.trial.unsupported)
                with interrupts.deferred():
                    store.write(grid.folder, result, grid.tasks)
                kept.add(result)
                observe(Event(job, Phase.PLAN, result=result))
        for event in (execute or local.run)(possible, grid.workers):
            if event.result is not None:
                with interrupts.deferred():
                    store.write(grid.folder, event.result, grid.tasks)
                    kept.add(event.result)
                    _tidy(grid.folder, event)
                    if kept.count % _COMPACT_EVERY == 0:
                        store.compact(grid.folder)
            observe(event)
    finally:
        with interrupts.deferred():
            store.compact(grid.folder)
    return _outcome(grid, kept)


def _outcome(grid: Grid, kept: _Kept) -> Outcome:
    trials = store.read_trials(grid.folder)
    keys = {job.key for job in grid.jobs}
    statuses = Counter(trials.loc[trials["key"].isin(keys), "status"])
    notes = data_use.sentences(trials[trials["key"].isin(keys)])
    overhead = statistics.median(kept.overheads) if kept.overheads else None
    return Outcome(dict(statuses), overhead, tuple(kept.failed), notes)


def overhead_seconds(row: TrialRow) -> float | None:
    """Return the wall time of an ok trial outside its own work; None for other trials."""
    if row.status != Status.OK or row.wall_seconds is None:
        return None
    return row.wall_seconds - sum(getattr(row, phase.column) or 0.0 for phase in Phase if phase.own_work)


def _tidy(folder: Path, event: executor.Event) -> None:
    """Delete the log of a trial that ended ok, and the state of training of a trial that does not run again.

    The log stays if a form in which the tuned model was deployed failed: it says why.
    """
    if event.result is None:
        return
    row = event.result.row
    went_well = row.status == Status.OK and not deployed_forms.failed(row.deployed_json)
    if not went_well:
        leftovers.sweep(folder)
    if Status(row.status).final:
        training_states.discard(folder, event.job.key)
    if event.job.log and went_well:
        Path(event.job.log).unlink(missing_ok=True)
    elif event.job.log:
        _clean(Path(event.job.log))


def _clean(log: Path) -> None:
    """Rewrite the log of a trial that has ended, into which libraries write what they like, as it may be passed on."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
        log.write_text(of_log(text), encoding="utf-8")
    except OSError:  # it is none of the results: nothing depends on it
        log.unlink(missing_ok=True)
