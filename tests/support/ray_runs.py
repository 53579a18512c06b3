"""Grids on a real cluster of Ray, whose trials only pretend: what they do is in the name of their cell.

``python -m tests.support.ray_runs ADDRESS FOLDER SECONDS NUMBER`` is a command that runs such a grid, to be killed.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from peftbench.records import Base, Evaluation, Job, Phase, Trial
from peftbench.results import store
from peftbench.runner import grid
from peftbench.runner.executor import Event, kinds
from peftbench.runner.executor.ray import driver, inputs, worker
from tests.support.exports import library
from tests.support.results_factory import make_result

STORE_BYTES = 80 * 2**20
"""Object store of a node: the smallest that Ray takes is 75 MiB."""
REAL = worker.work
"""What runs trials; ``run`` replaces it."""


def pretend(version: str, code: str, payload: bytes, sent: Any) -> Iterator[tuple[str, Any]]:
    """In place of ``worker.work``: do what the cell says, then give a result."""
    import ray

    job: Job = pickle.loads(payload).job
    node = ray.get_runtime_context().get_node_id()
    yield "here", (node, time.monotonic())
    starts = Path(job.scratch) / "starts"
    starts.mkdir(exist_ok=True)
    number = len(list(starts.glob(f"{job.key}.*")))
    (starts / f"{job.key}.{number}.{os.getpid()}").touch()
    what, _, seconds = job.trial.cell.partition(" ")
    slow = Path(job.scratch) / "slow-node"
    yield "event", (Phase.START, 0, 0, None)
    half = float(seconds or 0) / 2 * (10 if slow.is_file() and slow.read_text() == node else 1)
    time.sleep(half)
    yield "event", (Phase.TRAIN, 1, 2, 0.5)
    time.sleep(half)
    if what == "crashes" or (what == "crashes_once" and not number):
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "raises":
        raise RuntimeError("no more threads")
    status = what if what in ("oom", "error", "diverged", "timeout") else "ok"
    made = make_result(job.trial.cell, seed=job.trial.seed, status=status, key=job.key, base="elsewhere")
    yield "result", (made, time.monotonic())


def work_without_files(version: str, code: str, payload: bytes, sent: Any) -> Iterator[tuple[str, Any]]:
    """``worker.work`` on a node that has no file of the command's machine, which is this one in truth."""
    os.environ["XDG_CACHE_HOME"] = f"{pickle.loads(payload).job.scratch}-of-the-node"
    real = inputs._is
    inputs._is = lambda source, path: str(path) != source.path and real(source, path)
    worker._shares = lambda *_: False
    try:
        yield from worker.work(version, code, payload, sent)
    finally:
        inputs._is = real


def job(folder: Path, cell: str, seed: int) -> Job:
    """Return a job that only has what the executor looks at."""
    trial = Trial(
        suite="test",
        cell=cell,
        base=Base("nano"),
        method="lora",
        precision="fp32",
        rank=8,
        options={},
        seed=seed,
        tasks=(),
        evaluate=(),
        training=None,
        evaluation=Evaluation(batch_size=4, max_length=48, split="test"),
        device="cpu",
        threads=1,
    )
    log = str(folder / "logs" / f"k{seed:03}.log")
    return Job(trial, f"k{seed:03}", str(folder), "0" * 64, "0" * 64, "{}", 1, str(folder), log=log)


def prepared(folder: Path, cells: Sequence[str]) -> Any:
    """Return the grid of these cells, one seed each, without those that are done in the folder."""
    store.open_for_run(folder, ["judge"])
    jobs = tuple(job(folder, cell, seed) for seed, cell in enumerate(cells))
    store.record_grid(folder, [each.key for each in jobs], "peftbench run x")
    done = store.done(folder)
    pending = tuple(each for each in jobs if each.key not in done)
    return SimpleNamespace(folder=folder, tasks=("judge",), jobs=jobs, pending=pending, workers=1)


def run(
    folder: Path, cells: Sequence[str], address: str, observe: Callable[[Event], None] = lambda _: None
) -> grid.Outcome:
    """Run a grid of pretending trials on the cluster."""
    driver.worker.work = pretend
    with kinds.opened("ray", address) as executor:
        return grid.run(prepared(folder, cells), observe, executor.run)


def rows(folder: Path) -> dict[str, Any]:
    """Return the rows of a results folder by key, after a check that each key has one, in the files themselves too."""
    import pyarrow.parquet as pq

    keys = [key for path in (folder / "trials").glob("*.parquet") for key in pq.read_table(path)["key"].to_pylist()]
    assert len(keys) == len(set(keys)), keys
    return {row["key"]: row for row in store.read_trials(folder).to_dict("records")}


def starts(folder: Path) -> dict[str, int]:
    """Return how often each trial was started."""
    found: dict[str, int] = {}
    for path in (folder / "starts").iterdir():
        key = path.name.partition(".")[0]
        found[key] = found.get(key, 0) + 1
    return found


def workers() -> list[psutil.Process]:
    """Return the processes of this machine that run tasks of Ray or trials, and that this process's cluster started."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if command.startswith(("ray::work", "ray::pretend", "ray::IDLE")) or "forkserver" in command:
            found.append(process)
    return found


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Wait until a condition holds, and return what it returned."""
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.1)
    return found


@contextmanager
def cluster(cpus: Sequence[int], **head: Any) -> Iterator[Any]:
    """Start a head without CPUs, and a node for each number of CPUs; yield the cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    made = Cluster()
    try:
        made.add_node(num_cpus=0, object_store_memory=STORE_BYTES, include_dashboard=False, **head)
        for count in cpus:
            add_node(made, count)
        made.wait_for_nodes()
        yield made
    finally:
        made.shutdown()


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of two nodes with a CPU each, for the tests of a file that takes this as its own."""
    library("ray", "ray")
    with cluster([1, 1]) as made:
        yield made


def add_node(made: Any, cpus: int, **more: Any) -> Any:
    """Add a node to a cluster."""
    return made.add_node(wait=False, num_cpus=cpus, object_store_memory=STORE_BYTES, **more)


def main(address: str, folder: str, seconds: str, number: str) -> None:
    place = Path(folder)
    outcome = run(place, [f"quick {seconds}"] * int(number), address)
    print(json.dumps(outcome.statuses))


if __name__ == "__main__":
    main(*sys.argv[1:])
