"""What ``plan --time`` predicted of a run: used for the time left, and compared with what the run took."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING

from peftbench.records import Status
from peftbench.records.units import seconds as shown
from peftbench.records.wording import plural

if TYPE_CHECKING:
    from peftbench.runner.executor import Event
    from peftbench.runner.prepare import Grid

_LEAST = 0.05
"""Least share of the predicted time after which a run's own speed corrects the prediction."""


class Expected:
    """Follows a run beside its prediction; says nothing where pilots are not known for every pending trial.

    Args:
        grid: what is run.
    """

    def __init__(self, grid: Grid) -> None:
        from peftbench.runner import pilot
        from peftbench.runner.preflight.texts import Texts

        self._workers = grid.workers
        self._seconds: dict[str, float] = {}
        self._took: dict[str, tuple[str, float]] = {}
        self._ended: set[str] = set()
        known = pilot.stored()
        reader = Texts().examples
        for job in grid.pending if known else ():
            measured = known.get(pilot.shape(job.trial))
            first = job.measures_inference or job.predicts
            found = pilot.seconds(job.trial, measured, first, reader) if measured else None
            if found is not None:
                self._seconds[job.key] = found
        self._complete = all(job.key in self._seconds or job.trial.unsupported for job in grid.pending)

    def beside(self, observer: Callable[[Event], None]) -> Callable[[Event], None]:
        """Return an observer that notes how long each trial took before it passes an event on."""

        def observe(event: Event) -> None:
            self.see(event)
            observer(event)

        return observe

    def see(self, event: Event) -> None:
        """Note how long a trial took."""
        if event.result is not None:
            key, row = event.job.key, event.result.row
            self._ended.add(key)
            if key in self._seconds and row.status == Status.OK and row.wall_seconds:
                self._took[key] = row.cell, row.wall_seconds

    def left(self) -> float | None:
        """Return the seconds that are left, corrected by the trials so far; None if they are not known."""
        if not self._complete or not self._seconds:
            return None
        ahead = sum(each for key, each in self._seconds.items() if key not in self._ended)
        behind = sum(self._seconds[key] for key in self._took)
        enough = behind > _LEAST * (ahead + behind)
        pace = sum(took for _, took in self._took.values()) / behind if enough else 1.0
        return pace * ahead / self._workers

    def sentences(self) -> tuple[str, ...]:
        """Return the predicted beside the measured time of the trials that ended ok; nothing if none was predicted."""
        if not self._took:
            return ()
        predicted = sum(self._seconds[key] for key in self._took)
        measured = sum(took for _, took in self._took.values())
        errors = {key: self._seconds[key] / took - 1 for key, (_, took) in self._took.items()}
        worst = max(errors, key=lambda key: abs(errors[key]))
        count = plural(len(errors), "trial")
        text = (
            f"plan --time predicted {shown(predicted)} for {count}, which took {shown(measured)} "
            f"({predicted / measured - 1:+.0%}); of single trials, the median error is "
            f"{statistics.median(map(abs, errors.values())):.0%}, the largest {errors[worst]:+.0%} "
            f"({self._took[worst][0]})"
        )
        return (text,)
