"""Where trials run: on this machine, or on a cluster of Ray. Ray is imported only if it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from peftbench.errors import UserError, unknown
from peftbench.measure import device
from peftbench.records import Job, Trial
from peftbench.runner.executor import Event, local

NAMES = ("local", "ray")


@dataclass(frozen=True)
class Executor:
    """What runs trials, and what the command must know of it."""

    name: str
    run: Callable[[Sequence[Job], int], Iterator[Event]]
    """Runs jobs, at most so many at a time, and yields what happens. On a cluster, its resources decide how many."""
    device: Callable[[str], str]
    """Resolves a suite's device to ``cpu`` or ``cuda``."""
    at_once: Callable[[Sequence[Trial], int], int]
    """Returns how many of the trials run at the same time, given the suite's ``workers``."""
    reserved: Callable[[Sequence[Job]], tuple[Sequence[Job], Sequence[str]]] = lambda jobs: (jobs, ())
    """Returns jobs with what they need of their machine's memory, if trials are placed by it, and notes about that."""
    shares_memory: bool = True
    """Whether the trials that run at the same time share the budget of memory, rather than each having it."""
    elsewhere: bool = False
    """Whether trials run on other machines than the command."""


def check(name: str, address: str | None) -> None:
    """Check which executor is asked for.

    Raises:
        UserError: if there is no such executor, or it takes no address.
    """
    if name not in NAMES:
        raise UserError(f"--executor: {unknown('executor', name, NAMES)}")
    if address and name != "ray":
        raise UserError(f"--address {address} is of a cluster of Ray: add --executor ray")


@contextmanager
def opened(name: str, address: str | None = None) -> Iterator[Executor]:
    """Open an executor for the time of a run.

    Args:
        name: one of ``NAMES``.
        address: of a cluster of Ray; None for this machine alone.

    Raises:
        UserError: as ``check``; or if Ray is not installed or its cluster cannot be reached.
    """
    check(name, address)
    if name == "local":
        yield Executor(name, lambda jobs, workers: local.run(jobs, workers), device.resolve, lambda _, workers: workers)
        return
    from peftbench.runner.executor.ray import cluster, driver, memory

    def at_once(trials: Sequence[Trial], _: int) -> int:
        found = cluster.nodes()
        return max(1, max((cluster.at_once(found, cluster.reserved(trial)) for trial in trials), default=1))

    with cluster.connected(address) as own:
        yield Executor(
            name,
            lambda jobs, _: driver.run(jobs, own),
            cluster.resolve_device,
            at_once,
            memory.reserved,
            shares_memory=False,
            elsewhere=not own,
        )
