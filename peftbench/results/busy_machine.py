"""Trials whose times were measured while other work kept the machine's CPUs busy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

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
    """Trials whose threads waited for more than ``MOST_WAITING`` of their time; at least 1."""
    known: int
    """Trials for which the waiting time is known."""
    largest_share: float
    """The largest share of waiting among them, a fraction of 1."""


def busy_trials(trials: pd.DataFrame, of: Measured = "train") -> BusyTrials | None:
    """Return how many ``ok`` trials were measured on a busy machine; None if none is known to have been."""
    names = [name for name in (f"{of}_waiting_seconds", f"{of}_seconds", "threads", "device") if name in trials]
    shares = [waiting_share(row, of) for row in trials.loc[trials["status"] == "ok", names].to_dict("records")]
    known = [share for share in shares if share is not None]
    high = [share for share in known if share > MOST_WAITING]
    return BusyTrials(len(high), len(known), max(high)) if high else None


def waiting_share(row: Mapping[str, Any], of: Measured = "train") -> float | None:
    """Return the share of a phase's thread-seconds in which threads waited for a CPU; None if it is not known."""
    waiting, seconds, threads = (row.get(name) for name in (f"{of}_waiting_seconds", f"{of}_seconds", "threads"))
    if not all(map(is_number, (waiting, seconds, threads))):
        return None
    # on a GPU one thread does all the work
    available = seconds * (threads if row.get("device") == "cpu" else 1)  # type: ignore[operator]
    return float(waiting / available) if available > 0 and waiting >= 0 else None  # type: ignore[operator]
