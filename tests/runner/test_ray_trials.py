"""Real trials on a real cluster: a node that is lost, and a command that is killed and goes on elsewhere, at S3."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import psutil
import pytest

import peftbench
from peftbench.results import store
from peftbench.runner import grid
from peftbench.runner.executor import kinds
from peftbench.runner.executor.ray import driver
from tests.support import colours, ray_runs, trials
from tests.support.exports import library

ROOT = Path(__file__).parents[2]
nodes = ray_runs.nodes


@pytest.fixture(autouse=True)
def real(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver.worker, "work", ray_runs.REAL)  # pretending trials replace it


def no_process_is_left() -> bool:
    return not ray_runs.workers()


def test_a_node_that_is_lost_in_a_trial_changes_none_of_its_numbers(nodes: Any, tiny: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    store.open_for_run(results, ["colour"])
    (results / "logs").mkdir()
    made = [trials.trial(tiny, tmp_path, training={"steps": 300}, seed=seed) for seed in (0, 1)]
    jobs = tuple(trials.job(each, results) for each in made)
    store.record_grid(results, [job.key for job in jobs], "peftbench run x")
    killed: list[str] = []
    by_node = {node.node_id: node for node in nodes.worker_nodes}

    def observe(event: Any) -> None:
        if event.step and event.job is jobs[0] and not killed:
            asked = next(a for a in states[0].flights.values() if a.job is jobs[0])
            killed.append(str(asked.node))
            nodes.remove_node(by_node[killed[0]], allow_graceful=False)

    states: list[Any] = []
    submit = driver._submit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(driver, "_submit", lambda state: (states.append(state), submit(state)))
        with kinds.opened("ray", nodes.address) as executor:
            outcome = grid.run(
                SimpleNamespace(folder=results, tasks=("colour",), jobs=jobs, pending=jobs, workers=1),  # type: ignore[arg-type]
                observe,
                executor.run,
            )
    assert outcome.statuses == {"ok": 2}
    found = ray_runs.rows(results)
    assert found[jobs[0].key]["attempts"] == 2
    assert found[jobs[0].key]["node"] != killed[0][:12]
    assert found[jobs[0].key]["device"] == "cpu"
    here = trials.run(made[0], tmp_path)
    losses = store.read(results).steps
    losses = losses[losses["key"] == jobs[0].key].sort_values("step")["loss"]
    assert len(losses) == 300
    assert list(losses) == [step.loss for step in here.steps], "bit for bit"
    assert found[jobs[0].key]["batches_sha256"] == here.row.batches_sha256
    ray_runs.add_node(nodes, 1)
    nodes.wait_for_nodes()
    ray_runs.wait_for(no_process_is_left)


@pytest.fixture
def s3() -> Iterator[dict[str, str]]:
    """The environment of a bucket on a server of this machine."""
    library("s3fs", "s3")
    server = library("moto.server", "s3").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    more = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in more.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").clear_instance_cache()
        fsspec.filesystem("s3", use_listings_cache=False).mkdir("bucket")
        yield more
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


URL = "s3://bucket/nights/x"


def command(folder: Path, address: str, more: dict[str, str]) -> subprocess.Popen[str]:
    """Run the suite in a folder, as from a machine of its own: with its own cache."""
    environment = {**os.environ, **more, "PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder / "cache")}
    words = ["run", "x.yaml", "--executor", "ray", "--address", address, "-o", URL]
    return subprocess.Popen(
        [sys.executable, "-m", "peftbench", *words], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )


def test_a_command_that_is_killed_goes_on_from_another_machine_with_results_at_s3(
    nodes: Any, s3: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        text = "device: cpu\nthreads: 1\nseeds: 4\nmethods: {adapter: {learning_rate: 1e-3}}\ntrain: {steps: 60}\n"
        colours.with_validation(tmp_path / name, text)
    first = command(tmp_path / "first", nodes.address, s3)
    system = fsspec.filesystem("s3", use_listings_cache=False)
    ray_runs.wait_for(lambda: system.glob(f"{URL}/trials/*.parquet"), 120)
    family = [*ray_runs.workers(), *psutil.Process(first.pid).children(recursive=True)]
    first.kill()
    first.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "reader"))
    before = peftbench.read_results(URL).trials
    assert 1 <= len(before) < 4
    second = command(tmp_path / "second", nodes.address, s3)
    _, said = second.communicate(timeout=200)
    assert second.returncode == 0, said
    assert f"all results are at {URL}" in said
    assert f"4 trials, {len(before)} of them done already" in said
    after = peftbench.read_results(URL, all_rows=True).trials
    assert sorted(after["seed"]) == [0, 1, 2, 3]
    assert set(after["status"]) == {"ok"}
    kept = after[after["key"].isin(before["key"])]
    assert sorted(kept["finished_at"]) == sorted(before["finished_at"]), "what is finished did not run again"
    assert set(after["workers"]) == {1}
    assert after["environment_json"].nunique() == 1
    text = after.to_csv()
    assert str(tmp_path) not in text, "no path of a machine"
    ray_runs.wait_for(no_process_is_left)


@pytest.mark.slow
def test_a_node_without_the_base_model_and_the_data_is_sent_them(
    nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own files are those of a machine where neither is: the paths of the command's say nothing there."""
    colours.with_validation(tmp_path, "device: cpu\nthreads: 1\nseeds: 2\nmethods: {adapter: {learning_rate: 1e-3}}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(driver.worker, "work", ray_runs.work_without_files)
    found = peftbench.run_suite(
        "x.yaml",
        tmp_path / "r",
        executor="ray",
        address=nodes.address,
        keep_adapters=True,
        overrides={"train.steps": 4},
    )
    assert found.statuses == {"ok": 2}
    rows = ray_runs.rows(tmp_path / "r")
    assert {row["attempts"] for row in rows.values()} == {1}, "to be sent something is no attempt"
    assert {row["base"] for row in rows.values()} == {"tiny"}
    for key in rows:
        assert list((tmp_path / "r" / "adapters" / key).glob("*.safetensors"))
