"""A run of many trials: its parent keeps little of each, and a grid that is too large is refused before it is made."""

from __future__ import annotations

import gc
import os
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import psutil
import pytest

from peftbench import suite
from peftbench.errors import UserError
from peftbench.records import Phase, Status
from peftbench.runner import grid
from peftbench.runner.executor import Event, local
from tests.support.results_factory import make_result


def stub_grid(folder: Path, trials: int) -> SimpleNamespace:
    """A grid of trials that nobody runs."""
    made = SimpleNamespace(unsupported=None, cell="lora r=8 fp32", seed=0, timeout_seconds=None)
    jobs = tuple(SimpleNamespace(trial=made, key=f"k{number}", log=None) for number in range(trials))
    return SimpleNamespace(folder=folder, tasks=("judge",), jobs=jobs, pending=jobs, workers=1)


def stub_run(monkeypatch, examples: int = 300, steps: int = 300, fails: bool = False) -> list[weakref.ref]:
    """Let every job end at once, with a result of some size; return references to the results."""
    references: list[weakref.ref] = []

    def run(jobs, workers) -> Iterator[Event]:
        for number, job in enumerate(jobs):
            status = "error" if fails and number % 2 else "ok"
            result = make_result(seed=number, key=job.key, status=status, steps=steps, examples=examples)
            references.append(weakref.ref(result))
            yield Event(job, Phase.EVALUATE, result=result)

    monkeypatch.setattr(local, "run", run)
    return references


def test_the_parent_of_a_run_does_not_keep_results(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    references, alive = stub_run(monkeypatch, examples=3, steps=3, fails=True), []

    def observe(event):
        gc.collect()
        alive.append(sum(reference() is not None for reference in references))

    outcome = grid.run(stub_grid(tmp_path / "r", 12), observe)
    assert max(alive) <= 2, "only the current one, and the one before while it is replaced"
    assert outcome.statuses == {"ok": 6, "error": 6}
    assert len(outcome.failed) == 6
    assert all(result.steps == result.examples == () for result in outcome.failed)
    assert outcome.failed[0].row.status == Status.ERROR
    assert outcome.overhead_seconds is not None


@pytest.mark.slow
def test_memory_is_flat_over_two_thousand_trials(tmp_path, monkeypatch):
    stub_run(monkeypatch)
    process, sizes, real = psutil.Process(), [], grid.store.write

    def write(folder, result, tasks):  # of every twentieth trial: writing takes most of the time
        if result.row.seed % 20 == 0:
            real(folder, result, tasks)

    monkeypatch.setattr(grid.store, "write", write)

    def observe(event):
        if event.job.key.endswith("00"):
            gc.collect()
            sizes.append(process.memory_info().rss / 2**20)

    with mock.patch("os.fsync"):
        grid.run(stub_grid(tmp_path / "r", 2000), observe)
    print("MiB after each hundred trials:", [round(size) for size in sizes])
    # what is kept of each would be 0.28 MiB: 420 MiB from the 500th trial to the 2,000th
    assert max(sizes) - sizes[5] < 80


HEAD = "base: nano\ntasks: [judge]\nseeds: 1\nsearch: false\n"


def load(folder: Path, text: str):
    (folder / "x.yaml").write_text(HEAD + text)
    return suite.load(folder / "x.yaml")


def test_a_grid_of_a_million_cells_is_refused_before_it_is_expanded(tmp_path):
    ranks = ", ".join(map(str, range(1, 1001)))
    rates = ", ".join(f"{number}e-6" for number in range(1, 1001))
    made = load(tmp_path, f"methods:\n  base:\n  lora: {{rank: [{ranks}], learning_rate: [{rates}]}}\n")
    began = time.monotonic()
    with pytest.raises(UserError, match="up to 1,000,001 trials") as error:
        suite.expand(made, "cpu")
    assert time.monotonic() - began < 1
    for part in ("1,000,000 cells in ", "methods.lora", "at most 10,000", "most_trials"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("text", "trials"),
    [
        ("methods: {base: null, lora: {rank: [1, 2]}}\nseeds: 3\n", 7),
        ("methods: {lora: {rank: [1, 2]}, full: null}\nrank: [4, 8, 16]\nprecision: [fp32, bf16]\n", 6),
        ("methods: [lora, adapter]\nrank: [4, 8, 16]\ntrain: {steps: [1, 2], batch_size: [4, 8]}\n", 24),
        ("methods: {lora: [{rank: 1}, {rank: [2, 3], alpha: [1, 2, 3]}]}\n", 7),
    ],
)
def test_the_number_of_trials_is_known_before_they_are_made(tmp_path, text, trials):
    text = "\n".join(line for line in text.splitlines() if not line.startswith("seeds")) + "\n"
    asked = "3" if trials == 7 and "base" in text else "1"
    (tmp_path / "x.yaml").write_text(HEAD.replace("seeds: 1\n", "") + text + f"most_trials: {trials}\n")
    assert len(suite.expand(suite.load(tmp_path / "x.yaml", seeds=asked), "cpu")) == trials
    fewer = suite.load(tmp_path / "x.yaml", seeds=asked, overrides=[f"most_trials={trials - 1}"])
    with pytest.raises(UserError, match=f"up to {trials} trials"):
        suite.expand(fewer, "cpu")


def test_the_candidates_of_a_search_count_as_trials(tmp_path):
    text = "methods: {lora: {learning_rate: [1e-3, 1e-4, 1e-5]}}\nmost_trials: 8\n"
    (tmp_path / "x.yaml").write_text(HEAD.replace("search: false", "search: {seeds: 3}") + text)
    with pytest.raises(UserError, match="up to 9 trials"):
        suite.expand(suite.load(tmp_path / "x.yaml"), "cpu")


def test_null_among_the_rates_of_a_search_is_refused(tmp_path):
    (tmp_path / "x.yaml").write_text(
        HEAD.replace("search: false\n", "") + "methods: {lora: {learning_rate: [1e-5, null]}}\n"
    )
    with pytest.raises(UserError, match="null is among the rates to search; allowed: numbers above 0"):
        suite.expand(suite.load(tmp_path / "x.yaml"), "cpu")


@pytest.mark.parametrize("seconds", [1.0, 86_400.0 * 30, 1e300])
def test_a_long_timeout_waits_no_longer_than_the_system_allows(monkeypatch, seconds):
    asked = []
    monkeypatch.setattr(local, "wait", lambda objects, timeout: asked.append(timeout))
    limits, ends = SimpleNamespace(deadline=time.perf_counter() + seconds), SimpleNamespace(deadline=None)
    channel, process = SimpleNamespace(closed=False), SimpleNamespace(sentinel=None)
    one = SimpleNamespace(limits=limits, ends=ends, channel=channel, process=process, others=[])
    local._wait([one])
    assert 0 < asked[0] <= min(seconds, 86_400)
