"""A grid on a real cluster of several nodes, all of which can be lost. The trials only pretend; Ray is real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from peftbench.errors import UserError
from peftbench.records import Status
from peftbench.results import store
from peftbench.runner.executor.ray import driver, losses
from tests.support import ray_runs
from tests.support.exports import library

ROOT = Path(__file__).parents[2]
nodes = ray_runs.nodes


@pytest.fixture(autouse=True)
def no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def all_ok(folder: Path, number: int) -> dict[str, Any]:
    found = ray_runs.rows(folder)
    assert sorted(found) == [f"k{seed:03}" for seed in range(number)]
    assert {row["status"] for row in found.values()} == {"ok"}
    return found


def test_every_trial_has_one_row_that_says_where_it_ran_and_no_process_is_left(nodes: Any, tmp_path: Path) -> None:
    outcome = ray_runs.run(tmp_path, ["quick 0.2"] * 5, nodes.address)
    assert outcome.statuses == {"ok": 5}
    found = all_ok(tmp_path, 5)
    assert len({row["node"] for row in found.values()}) == 2, "spread over the nodes"
    assert {len(row["node"]) for row in found.values()} == {12}
    assert {(row["attempts"], row["trials_beside"], row["workers"]) for row in found.values()} == {(1, 0, 1)}
    assert {row["base"] for row in found.values()} == {"nano"}
    ray_runs.wait_for(lambda: not ray_runs.workers())


def test_a_lost_worker_is_replaced_and_what_ended_by_itself_is_not_tried_again(nodes: Any, tmp_path: Path) -> None:
    cells = ["crashes_once", "crashes", "oom", "error", "diverged", "timeout", "raises", "quick"]
    ray_runs.run(tmp_path, cells, nodes.address)
    found = [row for _, row in sorted(ray_runs.rows(tmp_path).items())]
    assert [row["status"] for row in found] == ["ok", "killed", "oom", "error", "diverged", "timeout", "error", "ok"]
    most = losses.ATTEMPTS
    assert [row["attempts"] for row in found] == [2, most, 1, 1, 1, 1, most, 1]
    assert list(dict(sorted(ray_runs.starts(tmp_path).items())).values()) == [2, most, 1, 1, 1, 1, most, 1]
    killed, raised = found[1], found[6]
    assert killed["message"] == f"the process of Ray that ran it ended, {most} times"
    assert (killed["phase"], raised["phase"]) == ("train", "train")
    assert "RuntimeError: no more threads" in raised["message"]
    assert not Status(killed["status"]).final, "the same command tries it again"


def test_a_node_that_is_lost_in_mid_run_loses_no_cell(nodes: Any, tmp_path: Path) -> None:
    extra = ray_runs.add_node(nodes, 1)
    nodes.wait_for_nodes()
    lost: list[str] = []

    def observe(event: Any) -> None:
        name = extra.node_id
        here = [asked for asked in flights() if asked.node == name]
        if here and not lost:
            lost.append(here[0].job.key)
            nodes.remove_node(extra, allow_graceful=False)

    flights = watched_flights()
    ray_runs.run(tmp_path, ["quick 3.0"] * 4, nodes.address, observe)
    found = all_ok(tmp_path, 4)
    assert lost
    assert found[lost[0]]["attempts"] == 2
    assert found[lost[0]]["node"] != extra.node_id[:12]
    assert sum(ray_runs.starts(tmp_path).values()) == 5


def watched_flights() -> Any:
    """Return a function that returns the trials that Ray was asked for in the latest run."""
    states: list[Any] = []
    real = driver._submit

    def submit(state: Any) -> None:
        states.append(state)
        driver._submit = real
        real(state)

    driver._submit = submit
    return lambda: states[0].flights.values()


@pytest.mark.slow
def test_a_grid_that_begins_on_two_workers_ends_on_four(nodes: Any, tmp_path: Path) -> None:
    added: list[Any] = []

    def observe(event: Any) -> None:
        if event.result is not None and not added:
            added.extend(ray_runs.add_node(nodes, 1) for _ in range(2))

    try:
        ray_runs.run(tmp_path, ["quick 1.0"] * 24, nodes.address, observe)
    finally:
        for node in added:
            nodes.remove_node(node, allow_graceful=False)
    found = all_ok(tmp_path, 24)
    assert len({row["node"] for row in found.values()}) == 4


@pytest.mark.slow
def test_a_slow_node_holds_up_no_other(nodes: Any, tmp_path: Path) -> None:
    import ray

    order: list[str] = []

    def observe(event: Any) -> None:
        if not (tmp_path / "slow-node").exists():
            slow = next(each["NodeID"] for each in ray.nodes() if each["Alive"] and each["Resources"].get("CPU"))
            (tmp_path / "slow-node").write_text(slow)
        if event.result is not None:
            order.append(event.result.row.node)

    ray_runs.run(tmp_path, ["quick 0.4"] * 10, nodes.address, observe)
    all_ok(tmp_path, 10)
    slow = (tmp_path / "slow-node").read_text()[:12]
    assert order.count(slow) < order.count(next(node for node in order if node != slow))


@pytest.mark.slow
def test_two_commands_on_one_results_folder_double_and_lose_nothing(nodes: Any, tmp_path: Path) -> None:
    commands = [command(nodes.address, tmp_path, 0.1, 12) for _ in range(2)]
    for each in commands:
        assert each.wait(120) == 0
    all_ok(tmp_path, 12)
    tables = store.read(tmp_path)
    assert dict(tables.steps.groupby("key").size()) == {f"k{seed:03}": 3 for seed in range(12)}


def command(address: str, folder: Path, seconds: float, number: int) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "tests.support.ray_runs", address, str(folder), str(seconds), str(number)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT)})


def test_a_command_that_is_killed_loses_nothing_finished_and_leaves_no_process(nodes: Any, tmp_path: Path) -> None:
    first = command(nodes.address, tmp_path, 0.5, 10)
    stored = tmp_path / "trials"
    ray_runs.wait_for(lambda: stored.is_dir() and len(list(stored.glob("k*.parquet"))) >= 3)
    busy = ray_runs.workers()
    assert busy
    first.kill()
    first.wait()
    _, alive = psutil.wait_procs(busy, timeout=30)
    assert alive == [], "Ray ends the tasks of a command that is gone"
    before = {key: row["finished_at"] for key, row in ray_runs.rows(tmp_path).items()}
    counts = ray_runs.starts(tmp_path)
    assert len(before) >= 3
    second = command(nodes.address, tmp_path, 0.5, 10)
    assert second.wait(120) == 0
    found = all_ok(tmp_path, 10)
    assert {key: found[key]["finished_at"] for key in before} == before
    after = ray_runs.starts(tmp_path)
    assert all(after[key] == counts[key] for key in before), "what is finished does not run again"
    assert set(after.values()) <= {1, 2}


def test_ctrl_c_ends_the_tasks(nodes: Any, tmp_path: Path) -> None:
    def observe(event: Any) -> None:
        if event.step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ray_runs.run(tmp_path, ["quick 0.5"] * 4, nodes.address, observe)
    ray_runs.wait_for(lambda: not ray_runs.workers())
    ray_runs.run(tmp_path, ["quick"] * 4, nodes.address)
    all_ok(tmp_path, 4)


def test_what_no_node_can_run_is_told_and_what_is_finished_is_kept(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "PATIENCE_SECONDS", 1.0)
    monkeypatch.setattr(driver, "_LOOK_SECONDS", 0.2)
    real = driver.cluster.needs

    def needs(job: Any) -> dict[str, float]:
        return real(job) | ({"CPU": 64.0} if job.key == "k001" else {})

    monkeypatch.setattr(driver.cluster, "needs", needs)
    with pytest.raises(UserError, match=r"can run quick, which needs 64 CPUs; nodes have: .*1 CPUs.*kept"):
        ray_runs.run(tmp_path, ["quick"] * 3, nodes.address)
    assert set(ray_runs.rows(tmp_path)) == {"k000", "k002"}


@pytest.mark.slow
def test_a_worker_that_the_memory_monitor_of_ray_ends_is_out_of_memory(tmp_path: Path) -> None:
    """It ends processes of a full node, and there every node is full."""
    library("ray", "ray")
    with ray_runs.cluster([]) as made:
        ray_runs.add_node(
            made, 1, env_vars={"RAY_memory_usage_threshold": "0.01", "RAY_memory_monitor_refresh_ms": "100"}
        )
        made.wait_for_nodes()
        ray_runs.run(tmp_path, ["quick 20"], made.address)
    (row,) = ray_runs.rows(tmp_path).values()
    assert (row["status"], row["attempts"], row["phase"]) == ("oom", 1, "start")
    assert row["message"] == "its node ran out of memory, and Ray's memory monitor ended it"
    assert Status.OOM.final


@pytest.mark.slow
def test_two_hundred_trials_on_four_workers(tmp_path: Path) -> None:
    library("ray", "ray")
    with ray_runs.cluster([1, 1, 1, 1]) as made:
        ray_runs.run(tmp_path, ["quick 0.05"] * 200, made.address)
    found = all_ok(tmp_path, 200)
    assert len({row["node"] for row in found.values()}) == 4
    assert {row["attempts"] for row in found.values()} == {1}
