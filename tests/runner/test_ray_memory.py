"""The memory of its node that a trial reserves on a cluster: the planner's figure, asked for once for each cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from peftbench import cli
from peftbench.errors import UserError
from peftbench.planner.ranks import highest
from peftbench.records import Devices, Phase, Status
from peftbench.results import store
from peftbench.runner.executor import Event, child, kinds, local
from peftbench.runner.executor.ray import cluster, driver, memory
from peftbench.runner.executor.ray.asked import Asked
from peftbench.runner.executor.ray.cluster import Node
from tests.support import trials

GIB = 2**30
REFERENCE = Path(__file__).parents[2] / "results" / "reference"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The trials of which the planner is asked for a figure, which is 3 GiB."""
    found: list[Any] = []

    def ask(function: Any, trial: Any, folder: str, seconds: float) -> int:
        assert function is memory.predicted
        found.append(trial)
        return 3 * GIB

    monkeypatch.setattr(local, "ask", ask)
    monkeypatch.setattr(memory, "_known", {})
    return found


def test_the_figure_is_the_planners_over_all_processes(tiny: Path, tmp_path: Path) -> None:
    one = trials.trial(tiny, tmp_path)
    config = tiny
    assert memory.predicted(one, str(tiny)) == highest(one, config).peak_bytes
    two = dataclasses.replace(one, devices=Devices("ddp", 2))
    assert memory.predicted(two, str(tiny)) == sum(highest(two, config).ranks)
    assert memory.predicted(one, str(tmp_path)) is None, "there is no config"


def test_a_cell_is_predicted_once_whatever_its_seed_and_learning_rate(
    tiny: Path, tmp_path: Path, asked: list[Any]
) -> None:
    made = trials.trial(tiny, tmp_path)
    assert made.training is not None
    faster = dataclasses.replace(made, cell="faster", training=dataclasses.replace(made.training, learning_rate=0.5))
    wider = dataclasses.replace(made, cell="wider", rank=8)
    each = [made, dataclasses.replace(made, seed=1), faster, wider]
    jobs, notes = memory.reserved([trials.job(trial, tmp_path) for trial in each])
    assert [trial.cell for trial in asked] == [made.cell, "wider"]
    assert [job.host_bytes for job in jobs] == [3 * GIB + memory.BESIDE_BYTES] * 4
    assert notes == ()
    again, _ = memory.reserved(jobs)
    assert (len(asked), list(again)) == (2, list(jobs)), "a search and its grid ask once"


def test_on_a_gpu_the_host_has_what_is_read_and_offloaded_and_under_fsdp2_a_cpu_has_it_too(
    tiny: Path, tmp_path: Path
) -> None:
    one = trials.trial(tiny, tmp_path)
    shared = dataclasses.replace(one, devices=Devices("fsdp2", 2))
    offloaded = dataclasses.replace(shared, devices=Devices("fsdp2", 2, "cpu"), device="cuda")
    found = highest(shared, tiny)
    base, parts = found.base_weights_bytes, found.categories
    shards = 2 * (parts["base_weights"] + parts["adapter"])

    def host(trial: Any, **changes: Any) -> int:
        return memory.predicted(dataclasses.replace(trial, **changes), str(tiny)) or 0

    assert host(one, device="cuda") == base
    assert host(one, device="cuda", devices=Devices("ddp", 2)) == 2 * base
    assert base <= host(shared, device="cuda") <= base + shards
    assert host(offloaded) >= base + shards
    assert host(shared) == max(sum(found.ranks), max(base, shards) + shards)
    assert host(one, device="cuda", precision="nf4") == 0, "it goes to the GPU piece by piece"
    training = dataclasses.replace(one.training, offload="optimizer")
    assert host(trials.trial(tiny, tmp_path, "full", training={"offload": "optimizer"}), device="cuda") > 3 * base
    assert 0 < host(one, device="cuda", precision="nf4", training=training) < base
    known = SimpleNamespace(base_weights_bytes=100, ranks=(900, 900), peak_bytes=900)
    known.categories = {"base_weights": 40, "quantization_state": 10, "adapter": 5, "gradients": 30, "optimizer": 60}
    seen: Any = known
    on_gpus = dataclasses.replace(shared, device="cuda")
    assert memory._on_host(on_gpus, seen, True) == 200, "each rank reads it"
    assert memory._on_host(on_gpus, seen, False) == 110, "rank 0 alone"
    assert memory._on_host(offloaded, seen, True) == 310, "its shards are there, too"
    assert memory._on_host(offloaded, seen, False) == 290, "weights, gradients and optimizer state"
    assert memory._on_host(shared, seen, False) == 1800, "the step"


def test_who_has_a_budget_or_trains_nothing_needs_no_prediction(tiny: Path, tmp_path: Path, asked: list[Any]) -> None:
    made = trials.trial(tiny, tmp_path)
    job = trials.job(made, tmp_path)
    limited = dataclasses.replace(job, budget_bytes=GIB)
    bare = dataclasses.replace(job, trial=dataclasses.replace(made, cell="base", training=None))
    gpus = dataclasses.replace(made, cell="gpus", device="cuda", devices=Devices("ddp", 2))
    on_gpus = dataclasses.replace(limited, trial=gpus)
    found, notes = memory.reserved([limited, bare, on_gpus])
    assert [cluster.needs(each)["memory"] for each in found] == [
        GIB,
        0.0,
        3 * GIB + 2 * memory.BESIDE_BYTES,
    ], "a GPU's budget is not its node's"
    assert ([trial.cell for trial in asked], notes) == (["gpus"], ())


def test_what_cannot_be_predicted_reserves_none_and_is_told_once(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[Any]
) -> None:
    made = trials.trial(tiny, tmp_path)

    def ask(*_: Any, **__: Any) -> int:
        raise UserError("no such option")

    monkeypatch.setattr(local, "ask", ask)
    late = dataclasses.replace(made, cell="late", rank=8)
    jobs = [trials.job(trial, tmp_path) for trial in (made, dataclasses.replace(made, seed=1), late)]
    found, notes = memory.reserved(jobs)
    assert list(found) == jobs
    assert notes == (
        f"memory could not be predicted, or not in time, for {made.cell}, late: these reserve none of a node",
    )
    monkeypatch.setattr(local, "ask", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(memory, "SECONDS", 0.0)
    monkeypatch.setattr(memory, "_known", {})
    assert memory.reserved(jobs)[1] == notes, "after that time no cell is predicted"


def test_a_process_that_is_asked_sends_what_a_function_returns_or_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Any] = []
    channel = SimpleNamespace(send=sent.append, close=lambda: None)
    for name in ("_take_signals", "_die_with_parent"):
        monkeypatch.setattr(child, name, lambda: None)
    monkeypatch.setattr(child.warnings, "simplefilter", lambda _: None)
    monkeypatch.setattr(child.logging, "disable", lambda _: None)
    monkeypatch.setattr(child.os, "_exit", lambda _: None)

    def refuse() -> None:
        raise UserError("no")

    child.answer(lambda n: n + 1, (1,), channel)  # type: ignore[arg-type]
    child.answer(refuse, (), channel)  # type: ignore[arg-type]
    assert sent == [(None, 2), ("no", None)]


def test_a_trial_reserves_at_most_the_memory_of_the_largest_node_unless_it_has_a_budget(
    tiny: Path, tmp_path: Path
) -> None:
    """The prediction is of the longest step that the settings allow; a budget was asked for."""
    job = dataclasses.replace(trials.job(trials.trial(tiny, tmp_path), tmp_path), host_bytes=20 * GIB)
    state: Any = SimpleNamespace(refused={}, nodes=[Node("head", {"CPU": 0.0, "memory": 99.0 * GIB})])
    needs = driver._needs(state, Asked(job, None))  # type: ignore[arg-type]
    assert needs["memory"] == 20 * GIB, "no node is there that could run it"
    state.nodes += [Node("a", {"CPU": 4.0, "memory": 8.0 * GIB}), Node("b", {"CPU": 4.0, "memory": 16.0 * GIB})]
    needs = driver._needs(state, Asked(job, None))  # type: ignore[arg-type]
    assert needs == {"CPU": 1.0, "GPU": 0.0, "memory": 16 * GIB}
    assert [node.trials(needs) for node in state.nodes] == [0, 0, 1]
    limited = Asked(dataclasses.replace(job, budget_bytes=20 * GIB), None)  # type: ignore[arg-type]
    assert driver._needs(state, limited)["memory"] == 20 * GIB


def test_a_run_on_a_cluster_passes_on_what_trials_reserve_and_the_nodes_decide_how_many_devices_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[int | None] = []

    def run(jobs: Any, _: int) -> Iterator[Event]:
        for job in jobs:
            ran.append(job.host_bytes)
            yield Event(job, Phase.START, result=local.failure(job, Status.KILLED, Phase.START, "its node was lost"))

    def reserved(jobs: Any) -> Any:
        return [dataclasses.replace(job, host_bytes=7) for job in jobs], ("memory could not be predicted for a cell",)

    @contextmanager
    def opened(name: str, _: str | None) -> Iterator[kinds.Executor]:
        yield kinds.Executor(name, run, lambda _: "cpu", lambda *_: 1, reserved, shares_memory=False)

    monkeypatch.setattr(kinds, "opened", opened)
    monkeypatch.setattr(local, "ask", lambda *_, **__: None)
    (tmp_path / "x.yaml").write_text(
        "base: nano\ntasks: [judge]\nseeds: 1\ndevice: cpu\nthreads: 1\ntrain: {steps: 1}\nmethods: [full]\n"
        "devices: {strategy: ddp, count: 4096}\n"
    )
    assert cli.main(["run", str(tmp_path / "x.yaml"), "-o", str(tmp_path / "r"), "--executor", "ray"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "note: memory could not be predicted for a cell" in said
    assert "its node was lost" in said
    assert ran == [7]


def test_of_the_committed_trials_98_percent_need_less_beside_their_tensors() -> None:
    folders = [path.parent for path in REFERENCE.glob("*/trials")]
    rows = pd.concat([store.read_trials(folder) for folder in folders])
    rows = rows[(rows["status"] == "ok") & (rows["device"] == "cpu")].dropna(subset=["peak_train_bytes"])
    assert (rows["suite"] == "memory_ladder").any()  # of a larger base
    beside = (rows["host_peak_resident_bytes"] - rows["peak_train_bytes"]).dropna()
    assert len(beside) > 500
    assert (beside < memory.BESIDE_BYTES).mean() > 0.98
