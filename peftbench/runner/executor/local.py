"""Run jobs on this machine: one process per trial, forked from a server that has imported the heavy libraries.

The parent imports none of them. Every job ends with exactly one result, even if its process dies.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from peftbench import interrupts
from peftbench.errors import UserError
from peftbench.measure import environment
from peftbench.methods import deployed_forms
from peftbench.records import Job, Phase, Result, Status
from peftbench.records.columns.deployed import DeployedColumns
from peftbench.records.columns.environment import EnvironmentColumns
from peftbench.records.columns.time import TimeColumns
from peftbench.records.devices import Place
from peftbench.runner import rows
from peftbench.runner.executor import Event, child, deaths, lifeline, ranks, sockets, stack
from peftbench.runner.executor.limits import Limits

_LONGEST_WAIT = 86_400.0
"""Longest wait for an event in seconds; the system's own limit is 24.8 days."""
_KILL_SECONDS = 10.0
"""How long to wait for a killed process to end."""
_SERVER_VARIABLES = (lifeline.RUNNER, *environment.OPENMP)
"""Environment variables that are set while the server starts."""
_ATTEMPTS = 3  # if the server is killed before it has done what it was asked for
_servers: set[int] = set()
"""Process ids of the fork servers that this module has started."""


@dataclass
class _Running:
    job: Job
    process: Any
    channel: Connection
    asked_at: float
    kernel_kills: int
    server: int | None
    """The process server that started it, which it ends with."""
    limits: Limits
    result: Result | None = None
    kept: Result | None = None
    """A result that counts if the process is killed: all but the score after deployment."""
    others: list[ranks.Rank] = field(default_factory=list)
    """Its other processes, if several devices share the trial."""
    ends: ranks.Ends = field(default_factory=ranks.Ends)
    place: Place | None = None
    """Where its processes meet; None if it has one process."""

    @property
    def phase(self) -> Phase:
        """The phase that the trial is in."""
        return self.limits.phase


def run(jobs: Sequence[Job], workers: int) -> Iterator[Event]:
    """Run jobs, at most ``workers`` at a time, and yield what happens; each job's last event has its result.

    Closing the iterator, or Ctrl-C within it, kills the running processes.
    """
    context = _context()
    waiting = list(reversed(jobs))
    running: list[_Running] = []
    before = dict(os.environ)
    try:
        if jobs:
            _await_server(context)
        while waiting or running:
            while waiting and len(running) < workers:
                if not _server_lives():  # else the next trial would pay for its imports
                    _await_server(context)
                running.append(_start(context, waiting.pop()))
                yield Event(running[-1].job, Phase.START, process=running[-1].process.pid)
            _wait(running)
            for one in list(running):
                yield from _receive(one)
                if one.result is not None:
                    running.remove(one)
                    yield Event(one.job, one.phase, result=one.result)
    finally:
        for one in running:
            _kill(one)
        _restore(before)


def load_libraries() -> None:
    """Return when the libraries are loaded, so that it counts for no limit of the caller's.

    Raises:
        UserError: if the process that loads them ends.
    """
    before = dict(os.environ)
    try:
        _await_server(_context())
    finally:
        _restore(before)


def ask(function: Callable[..., Any], *arguments: Any, seconds: float | None = None) -> Any:
    """Call a function in a process that has imported the libraries, and return what it returns.

    If that process dies, or takes more than ``seconds``, that is None and nothing is refused here: the trial's own
    process fails in the same way, and that is a row.

    Raises:
        UserError: if the function raises it.
    """
    context = _context()
    before = dict(os.environ)
    ours, theirs = context.Pipe(duplex=False)
    process: Any = context.Process(target=child.answer, args=(function, arguments, theirs), daemon=True)
    problem = value = None
    try:
        _await_server(context)
        with suppress(EOFError, OSError):
            _begin(process)
            theirs.close()
            if ours.poll(seconds):
                problem, value = ours.recv()
                process.join(_KILL_SECONDS)
    finally:
        if deaths.kill(process):
            process.join(_KILL_SECONDS)
        _restore(before)
    if problem is not None:
        raise UserError(problem)
    return value


def _context() -> Any:
    """Return how processes start: forked from a server that has imported the libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["peftbench.runner.executor.preload"])
    return context


def _begin(process: Any) -> None:
    """Start a process that does not run the caller's script again.

    multiprocessing does so to find functions that the script defines. The processes here need none of them, and a
    script without an ``if __name__ == "__main__"`` would start the whole run again in each.
    """
    with _main_module_hidden():
        process.start()


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Take away what multiprocessing knows of the caller's script."""
    main: dict[str, Any] = vars(sys.modules["__main__"])
    hidden: dict[str, Any] = {name: main.pop(name) for name in ("__spec__", "__file__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        del main["__spec__"]
        main.update(hidden)


def _restore(before: Mapping[str, str]) -> None:
    """Give the server's environment variables their former values: the caller's processes must not inherit them."""
    for name in _SERVER_VARIABLES:
        os.environ.pop(name, None)
        if name in before:
            os.environ[name] = before[name]


def _await_server(context: Any) -> None:
    """Return when the server has imported its libraries, so that their import does not count for any trial.

    A process has one fork server. If other code has started it, it has neither the libraries nor our environment
    variables, so it is stopped first; the processes that it has started continue. A server that is killed meanwhile is
    started again.

    Raises:
        UserError: if it ends each time.
    """
    for left in reversed(range(_ATTEMPTS)):
        try:
            return _await_libraries(context)
        except (EOFError, OSError) as error:
            if not left:
                raise UserError(f"the process server ended while it imported the libraries: {error}") from None


def _await_libraries(context: Any) -> None:
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    if server._forkserver_pid not in (None, *_servers):
        server._stop()
    sockets.prepare()
    os.environ[lifeline.RUNNER] = str(os.getpid())
    os.environ.update(environment.openmp())
    first = context.Process(target=child.nothing, daemon=True)
    resource_tracker.ensure_running()  # first, as it unblocks signals
    with interrupts.blocked(), _main_module_hidden():  # a terminal's Ctrl-C goes to the server too, before it is ready
        server.ensure_running()
    _begin(first)
    _servers.add(server._forkserver_pid)
    first.join()


def _server_lives() -> bool:
    """Return whether the process server that was awaited still runs."""
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    return server._forkserver_pid is not None and lifeline.alive(server._forkserver_pid)


def _start(context: Any, job: Job) -> _Running:
    """Start a job's processes, anew if the server is killed meanwhile; those that it had started end with it."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(EOFError, OSError):
            return _started(context, job)
        _await_server(context)
    return _started(context, job)


def _started(context: Any, job: Job) -> _Running:
    kills, asked_at = deaths.kernel_oom_kills(), time.perf_counter()
    places = ranks.places(job.trial.devices)
    first, *others = ranks.begun(places, lambda place: _process(context, job, asked_at, place))
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    found = [ranks.Rank(number, *other) for number, other in enumerate(others, 1)]
    server_id, limits = server._forkserver_pid, Limits(job.trial, asked_at)
    return _Running(job, *first, asked_at, kills, server_id, limits, others=found, place=places[0])


def _process(context: Any, job: Job, asked_at: float, place: Place | None) -> tuple[Any, Connection]:
    """Start a process of a job; return it and the channel that it sends to."""
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=child.main, args=(job, theirs, asked_at, place), daemon=True)
    _begin(process)
    theirs.close()
    return process, ours


def _wait(running: Sequence[_Running]) -> None:
    """Sleep until a process sends something or dies, or until the next deadline."""
    deadlines = [at for one in running for at in (one.limits.deadline, one.ends.deadline) if at is not None]
    timeout = min(max(0.0, min(deadlines) - time.perf_counter()), _LONGEST_WAIT) if deadlines else None
    first = [w for one in running if not one.channel.closed for w in (one.channel, one.process.sentinel)]
    wait([*first, *(w for one in running for w in ranks.channels(one.others))], timeout)


def _receive(one: _Running) -> Iterator[Event]:
    """Yield the events that a process has sent since the last call; set its result if it has ended in any way."""
    try:
        while not one.channel.closed and one.channel.poll():
            kind, content = one.channel.recv()
            if kind == "result":
                one.ends.add(0, _timed(one, content), time.perf_counter())
                one.channel.close()
            elif kind == "kept":
                one.kept = content
            elif kind == "phase":
                one.limits.enter(content)
                yield Event(one.job, content)
            else:
                step, steps, loss = content
                yield Event(one.job, one.phase, step, steps, loss)
    except (EOFError, OSError):  # it died, perhaps in the middle of a message
        one.channel.close()
        one.ends.add(0, _or_kept(one, _death(one)), time.perf_counter())
    _judge(one)
    if one.result is None and (reached := one.limits.reached()) is not None:
        frames = stack.asked(one.process.pid, one.job.log)
        _kill(one)
        at = f" at {frames[0]}" if frames else ""
        one.result = _or_kept(one, failure(one.job, Status.TIMEOUT, one.phase, f"{reached}{at}", frames))


def _judge(one: _Running) -> None:
    """Set the result of a trial if enough of its processes have ended; then none of them is left."""
    for other in one.others:
        ended = ranks.receive(other, lambda rank: _death(one, rank), lambda sent: _timed(one, sent))
        if ended is not None:
            one.ends.add(other.number, ended, time.perf_counter())
    one.result = one.ends.verdict(1 + len(one.others), time.perf_counter())
    if one.result is not None:
        if len(one.ends.found) <= len(one.others) and one.result.row.status != Status.OK:
            _kill(one)  # the others wait for the one that failed
        _reap(one)


def _timed(one: _Running, result: Result) -> Result:
    return with_wall_time(result, time.perf_counter() - one.asked_at)


def _or_kept(one: _Running, lost: Result) -> Result:
    """Return the result that a killed process had handed over, with what ended the rest; else that of a lost trial."""
    if one.kept is None:
        return lost
    row, message = one.kept.row, str(lost.row.message)
    text = deployed_forms.unfinished(row.deployed_json or "{}", Status(lost.row.status), message)
    kept = replace(one.kept, row=row.updated(DeployedColumns(deployed_json=text)))
    return _timed(one, kept)


def with_wall_time(result: Result, wall: float) -> Result:
    """Complete a result with what only the parent knows: the wall time, and how much of it belongs to no phase."""
    wall += result.row.earlier_processes_seconds or 0.0
    tracked = sum(getattr(result.row, phase.column) or 0.0 for phase in Phase)
    times = TimeColumns(wall_seconds=wall, untracked_seconds=wall - tracked)
    return replace(result, row=result.row.updated(times))


def failure(job: Job, status: Status, phase: Phase, message: str, frames: Sequence[str] = ()) -> Result:
    """Return the result of a trial whose process could not send its own, with its stack if that is known."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    outcome, reason = rows.outcome(job, status, phase, message)
    row = rows.row(job, status).updated(outcome, replace(reason, stack="\n".join(frames) or None))
    return Result(row.updated(EnvironmentColumns(finished_at=now)))


def _death(one: _Running, rank: ranks.Rank | None = None) -> Result:
    """Return the result of a trial of which a process, its first or another, ended without sending one."""
    process, phase = (rank.process, rank.phase) if rank else (one.process, one.phase)
    process.join(_KILL_SECONDS)
    log = ranks.log_of(one.job.log, rank.number if rank else 0)
    status, message, frames = deaths.cause(process, one.kernel_kills, one.server, log)
    return failure(one.job, status, phase, message, frames)


def _reap(one: _Running) -> None:
    """Wait for the end of a trial's processes, and kill those that do not end."""
    for process in (one.process, *(other.process for other in one.others)):
        process.join(_KILL_SECONDS)
    _kill(one)
    one.channel.close()


def _kill(one: _Running) -> None:
    every = (one.process, *(other.process for other in one.others))
    for process in every:
        deaths.kill(process)
    for process in every:
        process.join(_KILL_SECONDS)
    ranks.tidy(one.job, one.others, one.place)
