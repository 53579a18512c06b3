"""The processes of a trial on several devices beside its first: how they end, and which end is the trial's."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import util
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from peftbench.records import Devices, Job, Phase, Result, Status
from peftbench.records.columns.reasons import ReasonColumns
from peftbench.records.columns.trial import OutcomeColumns
from peftbench.records.devices import Place
from peftbench.runner.executor import deaths

GRACE_SECONDS = 5.0
"""How long to wait, after a rank has failed, for what the others say: those that lost it may report first."""
_LOST = re.compile(
    r"gloo|nccl|connection (closed|reset|refused)|broken pipe|socket|distbackenderror|recvvalue|tcpstore", re.IGNORECASE
)
"""What a rank reports that has lost another one."""


@dataclass
class Rank:
    """One process of a trial, the first excepted."""

    number: int
    process: Any
    channel: Connection
    phase: Phase = Phase.START
    ended: bool = False


@dataclass
class Ends:
    """How the ranks of one trial have ended, in the order of their ends."""

    found: list[tuple[int, Result]] = field(default_factory=list)
    failed_at: float | None = None
    """When the first of them failed; None if none has."""

    def add(self, rank: int, result: Result, now: float) -> None:
        """Add the result of a rank."""
        self.found.append((rank, result))
        if result.row.status != Status.OK and self.failed_at is None:
            self.failed_at = now

    @property
    def deadline(self) -> float | None:
        """When to judge at the latest; None if no rank has failed."""
        return None if self.failed_at is None else self.failed_at + GRACE_SECONDS

    def verdict(self, count: int, now: float) -> Result | None:
        """Return the trial's result: that of rank 0 if no rank failed by itself, else of the first that did.

        Args:
            count: number of ranks.
            now: the time, on the clock of ``add``.

        Returns:
            None if more ranks have to end first.
        """
        first = next((result for rank, result in self.found if rank == 0), None)
        failed = [(rank, result) for rank, result in self.found if result.row.status != Status.OK]
        own = [end for end in failed if not _LOST.search(end[1].row.message or "")]
        if first is not None and first.row.status == Status.OK and not own:
            return first
        if not failed or (len(self.found) < count and self.deadline is not None and now < self.deadline):
            return None
        rank, result = (own or failed)[0]
        return _told(result, rank, count) if count > 1 else result


def _told(result: Result, rank: int, count: int) -> Result:
    """Return a rank's failure as the trial's, with its number; a refusal is the same on every rank."""
    if result.row.status in (Status.UNSUPPORTED, Status.SKIPPED, Status.DIVERGED, Status.INERT, Status.CORRUPT):
        return result
    said = f"rank {rank} of {count}: "
    row = result.row.updated(
        OutcomeColumns(status=result.row.status, phase=result.row.phase, message=f"{said}{result.row.message}"),
        ReasonColumns(reason=f"{said}{result.row.reason}"),
    )
    return replace(result, row=row)


def receive(rank: Rank, death: Callable[[Rank], Result], complete: Callable[[Result], Result]) -> Result | None:
    """Read what a rank has sent; return its result if it has ended, also if it died.

    Args:
        rank: the rank.
        death: makes the result of a rank that died.
        complete: adds to a result what only the runner knows.
    """
    try:
        while not rank.ended and rank.channel.poll():
            kind, content = rank.channel.recv()
            if kind == "phase":
                rank.phase = content
            elif kind == "result":
                rank.ended = True
                return complete(content)
    except (EOFError, OSError):
        rank.ended = True
        return death(rank)
    return None


def begun(
    places: Sequence[Place | None], begin: Callable[[Place | None], tuple[Any, Connection]]
) -> list[tuple[Any, Connection]]:
    """Begin a process at each place; if one cannot be begun, end the others, which would wait for it.

    Args:
        places: where the processes meet, as ``places`` returns them.
        begin: begins one; returns it and the channel that it sends to.
    """
    found: list[tuple[Any, Connection]] = []
    try:
        for place in places:
            found.append(begin(place))
    except BaseException:
        for process, channel in found:
            deaths.kill(process)
            channel.close()
        raise
    return found


def log_of(log: str | None, rank: int) -> str | None:
    """Return the log of a rank while it runs, beside the trial's, which is that of rank 0."""
    return f"{log}.rank{rank}" if log and rank else log


def places(devices: Devices | None) -> list[Place | None]:
    """Return where the processes of a trial meet, in a folder that is removed at exit; None for a single process."""
    if devices is None:
        return [None]
    folder = tempfile.mkdtemp(prefix="ranks-", dir=util.get_temp_dir())
    return [Place(rank, str(Path(folder) / "meeting")) for rank in range(devices.ranks)]


def tidy(job: Job, ranks: Sequence[Rank], place: Place | None) -> None:
    """Append the logs of the other ranks to the trial's and delete them, and the folder in which the ranks met."""
    if place is not None:
        shutil.rmtree(Path(place.meeting).parent, ignore_errors=True)
    for rank in ranks:
        own = Path(log_of(job.log, rank.number) or "")
        if job.log and own.is_file():
            with suppress(OSError):
                text = own.read_bytes()
                if text.strip():
                    with open(job.log, "ab") as log:
                        log.write(f"\n--- rank {rank.number} ---\n".encode() + text)
                own.unlink()


def channels(ranks: Iterable[Rank]) -> list[Any]:
    """Return what becomes ready when one of the ranks sends something or ends."""
    return [each for rank in ranks if not rank.ended for each in (rank.channel, rank.process.sentinel)]
