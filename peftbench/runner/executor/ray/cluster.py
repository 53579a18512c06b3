"""The connection to Ray, and what its cluster has. Ray is imported here and in what this starts, and nowhere else."""

from __future__ import annotations

import importlib
import logging
import math
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from peftbench.errors import UserError
from peftbench.measure import device
from peftbench.records import Job, Trial
from peftbench.records.devices import ranks

OBJECT_STORE_BYTES = 512 * 2**20
"""Object store of a cluster that the command starts, in bytes: results pass through it, a few of them at a time."""


@dataclass(frozen=True)
class Node:
    """A living node of the cluster."""

    name: str
    """Ray's id."""
    has: Mapping[str, float]
    """What it has in all: ``CPU``, ``GPU``, and ``memory`` in bytes."""

    def trials(self, needs: Mapping[str, float]) -> int:
        """Return how many trials with these needs it can run at the same time."""
        most = [self.has.get(name, 0.0) / amount for name, amount in needs.items() if amount]
        return math.floor(min(most, default=0.0))


@contextmanager
def connected(address: str | None) -> Iterator[bool]:
    """Connect to a cluster, or start one on this machine; yield whether it is this machine's own.

    Args:
        address: of a cluster that runs, as ``ray start`` prints it, or ``auto``; None for the environment variable
            ``RAY_ADDRESS``, and if that is not set, a cluster of this machine alone that ends with the command.

    Raises:
        UserError: if Ray is not installed, or the cluster cannot be reached.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    if address and address.startswith("ray://"):
        raise UserError(
            f"--address {address}: Ray's client (ray://) does not pass on results as they come; run the command on a "
            "machine of the cluster, as with ray job submit, with --address auto"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing of a run is reported to anyone
    os.environ.setdefault("RAY_worker_niceness", "0")  # else trials wait for every other process of the machine
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise UserError(
            "--executor ray needs a library that this environment lacks: pip install 'peftbench[ray]'"
        ) from None
    if ray.is_initialized():
        yield False
        return
    own = address in (None, "local")
    before = _signals()
    _quiet(ray)
    try:
        more = {"num_cpus": len(os.sched_getaffinity(0)), "object_store_memory": OBJECT_STORE_BYTES} if own else {}
        ray.init(
            address="local" if own else address,
            include_dashboard=False if own else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **more,
        )
    except (ConnectionError, RuntimeError, ValueError, OSError, TimeoutError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        what = "Ray could not be started" if own else f"--address {address}: no cluster of Ray can be reached"
        raise UserError(f"{what}: {said[:200]}") from None
    finally:
        _restore(before)
    try:
        yield own
    finally:
        ray.shutdown()


def _signals() -> dict[int, Any]:
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}


def _restore(before: Mapping[int, Any]) -> None:
    """Give signals back their handlers, which Ray replaces: a run that is stopped says what is kept."""
    for number, handler in before.items():
        if handler is not None:
            signal.signal(number, handler)


def _quiet(ray: Any) -> None:
    """Keep the logs of nodes that were lost from the terminal: the run says what became of their trials."""
    with suppress(AttributeError):
        ray._private.worker.print_to_stdstream = lambda *_, **__: None


def nodes() -> list[Node]:
    """Return the living nodes of the cluster."""
    ray: Any = importlib.import_module("ray")
    return [Node(each["NodeID"], dict(each["Resources"])) for each in ray.nodes() if each["Alive"]]


def needs(job: Job) -> dict[str, float]:
    """Return what a trial reserves of its node: its threads, its GPUs, and the node's memory that it may need.

    That is its budget of memory if it has one and runs on the CPU, else what is predicted.
    """
    return reserved(job.trial, job.budget_bytes if limited(job) else job.host_bytes)


def limited(job: Job) -> bool:
    """Return whether a trial has a budget of its node's memory; that of a GPU is of the GPU's."""
    return job.budget_bytes is not None and job.trial.device != "cuda"


def within(wanted: Mapping[str, float], found: Sequence[Node]) -> dict[str, float]:
    """Return needs with no more memory than the largest of the nodes has that could otherwise run it.

    A prediction is of the longest step that the settings allow, so the trial may fit; it has that node's memory alone.
    """
    other = {**wanted, "memory": 0.0}
    most = max((node.has.get("memory", 0.0) for node in found if node.trials(other)), default=wanted["memory"])
    return {**wanted, "memory": min(wanted["memory"], most)}


def reserved(trial: Trial, memory_bytes: int | None = None) -> dict[str, float]:
    """Return what a trial reserves of its node, given the memory of that node that it may need."""
    devices = trial.devices.count if trial.devices else 1
    cuda = trial.device == "cuda"
    return {
        "CPU": float(trial.threads * ranks(trial.devices)),
        "GPU": float(devices) if cuda else 0.0,
        "memory": float(memory_bytes or 0),
    }


def at_once(found: Sequence[Node], wanted: Mapping[str, float]) -> int:
    """Return how many trials with these needs the nodes can run at the same time."""
    return sum(node.trials(wanted) for node in found)


def resolve_device(asked: str) -> str:
    """Return the device of a suite's trials: ``auto`` is a GPU if a node has one.

    Raises:
        UserError: if ``cuda`` is asked for, and no node has a GPU and none is on its way.
    """
    has_gpu = any(node.has.get("GPU") for node in nodes())
    if asked == "auto":
        return "cuda" if has_gpu else "cpu"
    if asked == "cuda" and not has_gpu and device.why_no_cuda():
        raise UserError("device: cuda was asked for, but no node of the cluster has a GPU")
    return asked


def shown(resources: Mapping[str, float]) -> str:
    """Return resources in words."""
    parts = [f"{resources.get('CPU', 0):g} CPUs"]
    parts += [f"{resources['GPU']:g} GPUs"] if resources.get("GPU") else []
    parts += [f"{resources['memory'] / 2**30:.1f} GiB"] if resources.get("memory") else []
    return ", ".join(parts)
