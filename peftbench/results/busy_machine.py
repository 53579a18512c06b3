"""Trials whose times were measured while other work kept the machine busy: its CPUs, or the GPU."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from peftbench.records.columns.inference import InferenceColumns
from peftbench.records.columns.time import TimeColumns
from peftbench.records.columns.work import WorkColumns
from peftbench.results.rows import is_number

if TYPE_CHECKING:
    import pandas as pd

Measured = Literal["train", "inference"]
"""Phases in which waiting for a CPU is measured."""
MOST_WAITING = 0.05
"""Largest share of a phase's thread-seconds spent waiting for a CPU at which its times are trusted.

Trials that had the machine to themselves waited for 0.4 to 2.2 % (the committed quickstarts), trials beside another job
on the same cores for 30 % and more."""


@dataclass(frozen=True)
class BusyTrials:
    """How many trials were measured on a busy machine."""

    count: int
    """Trials whose times do not count; at least 1."""
    known: int
    """Trials for which the waiting time or the number of other processes on the GPU is known."""
    largest_share: float
    """The largest share of waiting that is above ``MOST_WAITING``, a fraction of 1; 0 if none is."""
    beside_others: int = 0
    """Trials of which another process used the GPU."""


def busy_trials(trials: pd.DataFrame, of: Measured = "train") -> BusyTrials | None:
    """Return how many ``ok`` trials were measured on a busy machine; None if none is known to have been."""
    rows = trials.loc[trials["status"] == "ok", needed(trials, of)].to_dict("records")
    shares = [waiting_share(row, of) for row in rows]
    void = sum(is_void(row, of) for row in rows)
    known = sum(
        share is not None or is_number(row.get("other_gpu_processes")) for row, share in zip(rows, shares, strict=True)
    )
    high = [share for share in shares if share is not None and share > MOST_WAITING]
    return BusyTrials(void, known, max(high, default=0.0), sum(map(beside_others, rows))) if void else None


def needed(trials: pd.DataFrame, of: Measured = "train") -> list[str]:
    """Return the columns of these trials that tell whether times count."""
    names = f"{of}_waiting_seconds", f"{of}_seconds", "threads", "device", "other_gpu_processes"
    return [name for name in names if name in trials]


def is_void(row: Mapping[str, Any], of: Measured = "train") -> bool:
    """Return whether a trial's times do not count: it waited for a CPU, or another process used its GPU, as is known.

    Reports and comparisons of nights leave out the same times; histories, which have no other times, the same speeds.
    """
    share = waiting_share(row, of)
    return (share is not None and share > MOST_WAITING) or beside_others(row)


def beside_others(row: Mapping[str, Any]) -> bool:
    """Return whether another process is known to have used a trial's GPU."""
    others = row.get("other_gpu_processes")
    return is_number(others) and others > 0  # type: ignore[operator]


def quiet_rows(rows: Iterable[Mapping[str, Any]], of: Measured = "train") -> list[Mapping[str, Any]]:
    """Return the rows whose times count."""
    return [row for row in rows if not is_void(row, of)]


def is_time(column: str, of: Measured = "train") -> bool:
    """Return whether a column of ``trials`` is a time, a rate that follows from one, or the energy used meanwhile.

    A busy machine spoils them: other work slows a trial, and an energy counter of the whole device includes it.

    Args:
        column: its name.
        of: ``inference`` for those of inference cost, ``train`` for all others, as training is what tells whether a
            trial had the machine to itself.
    """
    return column in _TIMES[of]


def _times(*groups: type) -> frozenset[str]:
    every = [name for group in groups for name in group.__annotations__]
    ends = ("_seconds", "_per_second", "_joules")
    return frozenset(n for n in every if n.endswith(ends) and not n.endswith("_waiting_seconds"))


_TIMES: Mapping[Measured, frozenset[str]] = {
    "train": _times(TimeColumns, WorkColumns),
    "inference": _times(InferenceColumns),
}


def without_busy_times(trials: pd.DataFrame) -> pd.DataFrame:
    """Return trials without the times and rates that were measured on a busy machine; what else they measured stays.

    So means of times are of the other trials of a cell; where there are none, they are not known.

    Args:
        trials: rows of ``trials``; they are not changed.
    """
    found = trials
    for of, times in _TIMES.items():
        busy = [is_void(row, of) for row in trials[needed(trials, of)].to_dict("records")]
        if any(busy):
            found = found.copy() if found is trials else found
            found.loc[busy, [name for name in found if name in times]] = None
    return found


def waiting_share(row: Mapping[str, Any], of: Measured = "train") -> float | None:
    """Return the share of a phase's thread-seconds in which threads waited for a CPU; None if it is not known."""
    waiting, seconds, threads = (row.get(name) for name in (f"{of}_waiting_seconds", f"{of}_seconds", "threads"))
    if not all(map(is_number, (waiting, seconds, threads))):
        return None
    # on a GPU one thread does all the work
    available = seconds * (threads if row.get("device") == "cpu" else 1)  # type: ignore[operator]
    return float(waiting / available) if available > 0 and waiting >= 0 else None  # type: ignore[operator]
