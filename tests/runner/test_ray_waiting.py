"""What Ray is asked for while nodes come and go, and what arrives of a kept adapter, without a cluster."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from peftbench.errors import UserError
from peftbench.records import Phase
from peftbench.runner import grid, leftovers
from peftbench.runner.executor import Event
from peftbench.runner.executor.ray import driver, inputs
from peftbench.runner.executor.ray.asked import Asked
from peftbench.runner.executor.ray.cluster import Node
from tests.support import ray_runs
from tests.support.results_factory import make_result

INPUTS = inputs.Named(inputs.Source("base", "0" * 64, "base"), True, {})


class Ray:
    """Ray, which places nothing: a test says which tasks have something to tell."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.cancelled: list[Any] = []
        self.ready: list[Any] = []
        self.exceptions = SimpleNamespace(RayError=ZeroDivisionError)

    def options(self, **options: Any) -> Any:
        self.asked.append(options)
        return SimpleNamespace(remote=lambda *_: object())

    def wait(self, flights: list[Any], **_: Any) -> tuple[list[Any], list[Any]]:
        return [each for each in flights if each in self.ready], []

    def cancel(self, messages: Any, force: bool) -> None:
        assert force
        self.cancelled.append(messages)

    def get(self, message: Any) -> Any:
        return message


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[Node]:
    """The living nodes, which a test changes; each look is taken."""
    living: list[Node] = []
    monkeypatch.setattr(driver.cluster, "nodes", lambda: list(living))
    monkeypatch.setattr(driver, "_LOOK_SECONDS", 0.0)
    return living


def waiting(folder: Path, cpus: list[int]) -> Any:
    """Return the state of a run that has trials with these CPUs to do."""
    jobs = [ray_runs.job(folder, f"cell{number}", number) for number in range(len(cpus))]
    for number, threads in enumerate(cpus):
        jobs[number] = dataclasses.replace(
            jobs[number], trial=dataclasses.replace(jobs[number].trial, threads=threads), budget_bytes=None
        )
    ray = Ray()
    return driver._Run(False, "", ray, ray, deque(Asked(job, INPUTS) for job in jobs))


def turn(state: Any) -> None:
    driver._look(state)
    driver._submit(state)


def lost_on(state: Any, *nodes: str) -> Asked:
    asked = state.waiting[0]
    asked.lost_on |= set(nodes)
    asked.attempts = 1
    return asked


def test_a_trial_that_avoids_the_only_node_that_is_left_is_asked_for_again(nodes: list[Node], tmp_path: Path) -> None:
    state = waiting(tmp_path, [1])
    nodes += [Node("a", {"CPU": 2.0}), Node("b", {"CPU": 2.0})]
    asked = lost_on(state, "a")
    turn(state)
    (first,) = state.flights
    assert state.ray.asked[-1]["label_selector"] == {"ray.io/node-id": "!in(a)"}
    turn(state)
    assert list(state.flights) == [first], "while b lives, it waits for b"
    nodes.pop()
    state.ray.ready = [first]
    turn(state)
    assert list(state.flights) == [first], "it ran on b, and its messages tell"
    state.ray.ready = []
    turn(state)
    assert state.ray.cancelled == [first]
    (second,) = state.flights
    assert second is not first, "messages of the first are not read"
    assert state.flights[second] is asked
    assert asked.attempts == 1, "that was no attempt"
    assert "label_selector" not in state.ray.asked[-1]
    turn(state)
    assert list(state.flights) == [second]


def test_a_trial_that_has_a_node_for_itself_takes_a_smaller_one_if_the_large_are_lost(
    nodes: list[Node], tmp_path: Path
) -> None:
    state = waiting(tmp_path, [1])
    nodes += [Node("a", {"CPU": 8.0})]
    state.waiting[0].alone = True
    turn(state)
    assert state.ray.asked[-1]["num_cpus"] == 8.0
    nodes[:] = [Node("b", {"CPU": 2.0})]
    turn(state)
    assert len(state.ray.cancelled) == 1
    assert [options["num_cpus"] for options in state.ray.asked] == [8.0, 2.0]
    assert len(state.flights) == 1


def test_a_node_to_itself_is_one_that_no_other_trial_fits_into(nodes: list[Node], tmp_path: Path) -> None:
    state = waiting(tmp_path, [1])
    nodes += [Node("a", {"CPU": 4.0}), Node("b", {"CPU": 64.0})]
    asked = state.waiting[0]
    asked.alone = True
    turn(state)
    assert state.ray.asked[-1]["num_cpus"] == 64.0
    nodes.append(Node("c", {"CPU": 96.0}))
    turn(state)
    assert [options["num_cpus"] for options in state.ray.asked] == [64.0, 96.0], "on c it would have neighbours"
    turn(state)
    assert len(state.ray.asked) == 2
    asked.lost_on |= {"b", "c"}
    state.waiting.append(state.flights.popitem()[1])
    turn(state)
    assert state.ray.asked[-1]["num_cpus"] == 4.0, "the larger ones are avoided"
    turn(state)
    assert len(state.ray.asked) == 3


def test_a_node_that_refused_a_trial_does_not_say_how_much_memory_it_may_reserve(
    nodes: list[Node], tmp_path: Path
) -> None:
    state = waiting(tmp_path, [1])
    state.waiting[0].job = dataclasses.replace(state.waiting[0].job, host_bytes=300)
    nodes += [Node("a", {"CPU": 4.0, "memory": 512.0}), Node("b", {"CPU": 4.0, "memory": 256.0})]
    state.refused["a", ""] = "it has another peftbench"
    turn(state)
    assert state.ray.asked[-1]["memory"] == 256.0
    state.waiting.append(state.flights.popitem()[1])
    state.refused["b", ""] = "so has it"
    with pytest.raises(UserError, match="it has another peftbench; so has it"):
        turn(state)


def test_a_trial_that_runs_or_that_no_node_can_run_is_not_taken_back(nodes: list[Node], tmp_path: Path) -> None:
    state = waiting(tmp_path, [1, 64])
    nodes += [Node("a", {"CPU": 2.0})]
    turn(state)
    next(iter(state.flights.values())).node = "a"
    nodes[:] = [Node("b", {"CPU": 1.0})]
    turn(state)
    assert state.ray.cancelled == []
    assert len(state.flights) == 2


def test_trials_that_no_node_can_run_keep_back_none_that_can(
    nodes: list[Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "PATIENCE_SECONDS", -1.0)
    state = waiting(tmp_path, [64] * 40 + [1] * 3)
    nodes += [Node("a", {"CPU": 2.0})]
    turn(state)
    turn(state)
    asked = [options["num_cpus"] for options in state.ray.asked]
    assert asked.count(1.0) == 3
    assert asked.count(64.0) == driver._UNABLE_IN_FLIGHT, "a few, so that a cluster that grows sees them"
    for messages in [messages for messages, each in state.flights.items() if each.job.trial.threads == 1]:
        del state.flights[messages]
    with pytest.raises(UserError, match="can run cell0, which needs 64 CPUs; nodes have: 2 CPUs"):
        turn(state)
    nodes.append(Node("b", {"CPU": 64.0}))
    turn(state)
    assert len(state.flights) == driver._LEAST_IN_FLIGHT, "a node that comes runs them"
    assert [each.job.trial.cell for each in state.flights.values()] == [f"cell{n}" for n in range(16)], "in their order"


def arriving(folder: Path, pieces: list[tuple[str, bytes]], between: Any = None) -> Any:
    """Have a trial's messages come with these pieces of its adapter, and something happen before the last one."""
    state = waiting(folder, [1])
    asked = state.waiting.popleft()
    asked.job = dataclasses.replace(asked.job, adapter_folder=str(folder / "adapters" / "k"))

    def messages() -> Iterator[Any]:
        yield "here", ("a", 1.0)
        yield "files", {"config.json": 0, "weights": 5}
        for number, piece in enumerate(pieces):
            if between is not None and number == len(pieces) - 1:
                between()
            yield "adapter", piece
        yield "result", (make_result(key=asked.job.key), 2.0)

    flight = messages()
    state.flights[flight] = asked
    while state.flights:
        list(driver._receive(state, flight))
    assert not [*folder.glob(".receiving-*"), *folder.glob(".saving-*")]
    return Path(asked.job.adapter_folder)


PIECES = [("config.json", b""), ("weights", b"123"), ("weights", b"45")]


def test_a_trial_that_ends_with_an_error_takes_nothing_from_the_adapter_that_another_sends(tmp_path: Path) -> None:
    def other_ends() -> None:
        job = ray_runs.job(tmp_path, "other", 1)
        grid._tidy(tmp_path, Event(job, Phase.TRAIN, result=make_result(key=job.key, status="killed")))

    adapter = arriving(tmp_path, PIECES, other_ends)
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == {"config.json": b"", "weights": b"12345"}


@pytest.mark.parametrize("lost", range(len(PIECES)))
def test_an_adapter_of_which_a_piece_is_missing_is_not_kept_and_that_is_told(
    lost: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = arriving(tmp_path, [piece for number, piece in enumerate(PIECES) if number != lost])
    assert not adapter.exists()
    assert "the adapter of cell0 (seed 0) did not arrive whole and is not kept" in caplog.text


def test_what_a_command_that_has_ended_received_is_deleted_before_a_run(tmp_path: Path) -> None:
    name = leftovers.machine.name()
    ended, other = (tmp_path / f".receiving-{name}.{pid}-k" for pid in (os.getpid(), os.getppid()))
    for folder in (ended, other):
        folder.mkdir()
    leftovers.sweep(tmp_path)
    assert ended.exists(), "this process may be receiving it"
    leftovers.sweep_before_run(tmp_path)
    assert (ended.exists(), other.exists()) == (False, True)


def test_an_input_is_sent_to_a_node_once_and_what_prevents_it_is_told(
    nodes: list[Node], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = waiting(tmp_path, [1, 1])
    (tmp_path / "a").write_text("content")
    held: list[bytes] = []
    state.ray.put = held.append
    monkeypatch.setattr(inputs, "packed", lambda _: [("a", tmp_path / "a")])
    source = inputs.Source("data.jsonl", "1" * 64, "data")
    first, second = state.waiting
    assert driver._send(state, first, source) is None
    assert driver._send(state, first, source) == "data.jsonl could not be stored there", "else it is sent for ever"
    assert driver._send(state, second, source) is None
    assert held == [b"content"], "Ray holds it for all trials"
    monkeypatch.setattr(inputs, "packed", lambda _: [("a", tmp_path / "no such file")])
    told = driver._send(state, first, inputs.Source("b", "2" * 64, "data"))
    assert told is not None
    assert "no such file" in told


def test_what_ran_beside_a_trial_that_no_node_began_is_not_known(nodes: list[Node], tmp_path: Path) -> None:
    state = waiting(tmp_path, [1])
    lost = driver.local.failure(state.waiting[0].job, driver.Status.KILLED, Phase.START, "its node was lost")
    row = driver._stamped(state, state.waiting[0], lost).row
    assert (row.node, row.trials_beside) == (None, None)
