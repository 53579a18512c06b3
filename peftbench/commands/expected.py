"""How long a run will take: by pilots, else by its own first trials; and afterwards how far off that was."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from peftbench.commands import plan_time, terminal
from peftbench.records import Status
from peftbench.records.units import seconds as shown
from peftbench.records.wording import plural
from peftbench.results.busy_machine import MOST_WAITING, waiting_share

if TYPE_CHECKING:
    from peftbench.records import Job, TrialRow
    from peftbench.runner.executor import Event
    from peftbench.runner.prepare import Grid

_LEAST = 0.05
"""Least share of the predicted time after which a run's own speed corrects the prediction."""
_FEW = 2
"""Number of cells with an ended trial from which on the other cells are estimated by their mean."""
_EVERY = 180.0
"""Seconds after which the time left is said again."""
_MUCH = 1.5
"""Ratio to the predicted time from which on a run is said to be slower than predicted."""
_WAITING = ("train_waiting_seconds", "train_seconds", "threads", "device")
"""Columns that tell whether other work kept the machine busy."""
_SAME = 0.005
"""Relative difference up to which two times are called the same."""


class Expected:
    """Follows a run, and says how long it will take, as far as that is known.

    If pilots are known for every pending trial, it is their prediction, corrected by the trials that ended. Else it is
    an estimate from the trials that ended.

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
        self._began: dict[str, float] = {}
        self._waiting: list[float] = []
        """Of trials that ended, the share of their time in which threads waited for a CPU."""
        self._said, self._said_slow = time.monotonic(), False
        self._by: dict[str, None] = {}
        self._in_part: set[str] = set()
        """Keys of the trials whose predicted time is known in part only."""
        self._own = _OwnTimes([job for job in grid.pending if not job.trial.unsupported])
        known = pilot.stored()
        reader = Texts().examples
        for job in grid.pending if known else ():
            measured = known.get(pilot.shape(job.trial))
            first = job.measures_inference or job.predicts
            found = pilot.seconds(job.trial, measured, first, reader) if measured else None
            if measured is not None and found is not None:
                self._seconds[job.key] = found
                self._by |= {measured.made_by: None} if not measured.unsupported else {}
                self._in_part |= {job.key} if measured.incomplete else set()
        self._complete = all(job.key in self._seconds or job.trial.unsupported for job in grid.pending)

    def beside(self, observer: Callable[[Event], None]) -> Callable[[Event], None]:
        """Return an observer that notes how long each trial took before it passes an event on."""

        def observe(event: Event) -> None:
            self.see(event)
            observer(event)

        return observe

    def see(self, event: Event) -> None:
        """Note when a trial began, or how long it took."""
        key = event.job.key
        if event.result is None:
            self._began.setdefault(key, time.monotonic())
        else:
            row = event.result.row
            self._ended.add(key)
            began = self._began.pop(key, None)
            self._own.see(event.job, row, None if began is None else time.monotonic() - began)
            waiting = waiting_share({name: getattr(row, name, None) for name in _WAITING})
            self._waiting += [] if waiting is None else [waiting]
            if key in self._seconds and row.status == Status.OK and row.wall_seconds:
                self._took[key] = row.cell, row.wall_seconds

    @property
    def by(self) -> str:
        """The commands whose measured steps the prediction is from, as ``init --time``."""
        return plan_time.measured_by(self._by)

    def left(self) -> float | None:
        """Return the seconds that are left, corrected by the trials so far; None if they are not known."""
        if not self._predicts:
            own = self._own.left()
            return None if own is None else own / self._workers
        ahead = sum(each for key, each in self._seconds.items() if key not in self._ended)
        return self._pace() * ahead / self._workers

    def _pace(self) -> float:
        """Return how many times the predicted time the trials took; 1 before enough of them ended."""
        ahead = sum(each for key, each in self._seconds.items() if key not in self._ended)
        behind = sum(self._seconds[key] for key in self._took)
        enough = behind > _LEAST * (ahead + behind)
        return sum(took for _, took in self._took.values()) / behind if enough else 1.0

    @property
    def _least(self) -> str:
        """What is said before a time that is known in part only, so that it may be longer."""
        in_part = bool(self._in_part - self._ended) if self._predicts else self._own.in_part
        return "at least " * in_part

    @property
    def _predicts(self) -> bool:
        return self._complete and bool(self._seconds)

    def before(self, command: str) -> list[str]:
        """Return what is known of the time before anything runs, as lines; none if nothing is to run.

        Args:
            command: the one that measures a few steps of the same trials; it has a line of its own, to be copied.
        """
        if self._predicts:
            left = self.left()
            if not left:
                return []
            said = f"{self._least}about {shown(left)}, by the steps that {self.by} measured on this machine"
            return terminal.wrapped(said, terminal.SENTENCES, "    ")
        if not self._own.pending:
            return []
        follows = f": an estimate follows after {self._own.after}" if self._own.follows else ""
        said = f"how long it takes is not known yet{follows}; to have an estimate before a run:"
        return [*terminal.wrapped(said, terminal.SENTENCES, "    "), f"    {command}"]

    def news(self) -> str:
        """Return an estimate of the time left as a line; an empty text if there is nothing to say.

        It is said when there is a first or a better estimate, when the run turns out to be much slower than predicted,
        and again every few minutes.
        """
        what = self._slower() if self._predicts else self._own.news()
        is_new = bool(what) and not (self._predicts and self._said_slow)
        if not (is_new or time.monotonic() - self._said >= _EVERY):
            return ""
        self._said_slow |= self._predicts and bool(what)
        left = self.time_left()
        return left and f"{left}{f': {what}' if what else ''}"

    def time_left(self) -> str:
        """Return "about 9 min 22 s left", or "at least about"; an empty text if it is not known or nothing is left."""
        left = self.left()
        if not left:
            return ""
        self._said = time.monotonic()
        return f"{self._least}about {shown(left)} left"

    def _slower(self) -> str:
        """Return that trials take much longer than predicted, and how long they waited for a CPU; else nothing."""
        pace = self._pace()
        if pace < _MUCH:
            return ""
        said = f"trials take {pace:.1f} times as long as predicted"
        most = max(self._waiting, default=0.0)
        busy = (
            f" (their threads waited for a CPU in up to {100 * most:.0f} % of the time)" if most > MOST_WAITING else ""
        )
        return f"{said}{busy}"

    def sentences(self) -> tuple[str, ...]:
        """Return the predicted beside the measured time of the trials that ended ok; nothing if none was predicted."""
        if not self._took:
            return ()
        predicted = sum(self._seconds[key] for key in self._took)
        measured = sum(took for _, took in self._took.values())
        errors = {key: took / self._seconds[key] - 1 for key, (_, took) in self._took.items() if self._seconds[key]}
        count = plural(len(self._took), "trial")
        off = _off(measured, predicted)
        whole = f"{count} took {f'{off} than' if off else 'as long as'} predicted: {shown(measured)}"
        if off:
            whole += f" instead of {shown(predicted)}"
        single = ""
        if len(errors) > 1:
            worst = max(errors, key=lambda key: abs(errors[key]))
            median = statistics.median(map(abs, errors.values()))
            most = _off(1 + errors[worst], 1)
            single = f"; the median error of one trial is {100 * median:.0f} %"
            single += f", the largest that of {self._took[worst][0]} ({most})" if most else ""
        return (f"{whole}{single} (predicted by the steps that {self.by} measured)",)


def _off(measured: float, predicted: float) -> str:
    """Return "12 % longer" or "5 % less"; empty for times that are nearly the same."""
    more = measured / predicted - 1 if predicted else 0.0
    return f"{100 * abs(more):.0f} % {'longer' if more > 0 else 'less'}" if abs(more) >= _SAME else ""


class _OwnTimes:
    """What a run's own trials say of its time."""

    def __init__(self, pending: Sequence[Job]) -> None:
        self.pending = pending
        self._later: dict[str, list[float]] = {}
        """Cell -> the seconds of its trials, without what only a cell's first trial does."""
        self._first: list[float] = []
        """Seconds of what only a cell's first trial does."""
        self._ended: set[str] = set()
        self._ok: set[str] = set()
        """Cells of which a trial has ended ok."""
        self._trained = {job.trial.cell for job in pending if job.trial.training}
        self._said = 0

    @property
    def after(self) -> str:
        """After which trials there is an estimate, in words."""
        return "trials of two cells have ended" if len(self._trained) >= _FEW else "the first trial"

    @property
    def follows(self) -> bool:
        """Whether trials are left when enough have ended for an estimate."""
        return sum(job.trial.training is not None for job in self.pending) > max(1, min(_FEW, len(self._trained)))

    def see(self, job: Job, row: TrialRow, elapsed: float | None) -> None:
        """Note how long a trial took.

        Args:
            job: the trial.
            row: its row, which has no time if the process was stopped or killed.
            elapsed: seconds since its process was started; None if that was not seen.
        """
        self._ended.add(job.key)
        took = elapsed if row.wall_seconds is None else row.wall_seconds
        if took is None and row.status == Status.TIMEOUT and not job.trial.phase_timeouts:
            took = job.trial.timeout_seconds
        if took is not None:
            parts = [row.plan_seconds] * job.predicts + [row.inference_seconds] * job.measures_inference
            once = sum(part or 0.0 for part in parts)
            if parts and (row.status == Status.OK or None not in parts):  # else it did not come to all of them
                self._first.append(once)
            self._later.setdefault(job.trial.cell, []).append(max(0.0, took - once))
        if row.status == Status.OK:
            self._ok.add(job.trial.cell)

    def _known(self) -> list[str]:
        return [cell for cell in self._trained if cell in self._later]

    @property
    def in_part(self) -> bool:
        """Whether first trials of cells are left, and what only these do has not been seen."""
        return not self._first and any(_is_first(job) for job in self.pending if job.key not in self._ended)

    def left(self) -> float | None:
        """Return the seconds of work that are left; None before enough trials ended.

        A cell of which no trial has ended is counted as the mean of the others: of those that ended ok, if there are
        any, since what fails may end at once.
        """
        known = self._known()
        if len(known) < min(_FEW, len(self._trained)):
            return None
        means = {cell: statistics.fmean(times) for cell, times in self._later.items()}
        like = [cell for cell in known if cell in self._ok] or known or means
        others = statistics.fmean(means[cell] for cell in like) if means else None
        ahead = [job for job in self.pending if job.key not in self._ended]
        if others is None:
            return None
        once = statistics.fmean(self._first) if self._first else 0.0
        return sum(means.get(job.trial.cell, others) + once * _is_first(job) for job in ahead)

    def news(self) -> str:
        """Return what an estimate rests on, when it is the first one or every cell has ended once; else nothing."""
        known, cells = len(self._known()), len(self._trained)
        stage = 2 if known == cells else int(known >= _FEW)
        if stage <= self._said or not cells:
            return ""
        self._said = stage
        if stage == 2:
            return "a trial of every cell has ended"
        return f"a first estimate, as trials of {known} of {cells} cells have ended"


def _is_first(job: Job) -> bool:
    """Return whether a trial predicts memory or measures inference cost, as only the first of its cell does."""
    return job.predicts or job.measures_inference
