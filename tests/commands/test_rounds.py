"""Trials run seed by seed: every cell's first seed before any second."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest

from peftbench import suite
from peftbench.commands import progress
from peftbench.commands.rounds import Rounds
from peftbench.records import Phase
from peftbench.runner import prepare
from peftbench.runner.executor import Event
from peftbench.suite.learning_rate_search import candidates
from tests.support.results_factory import make_result

SUITE = """\
base: nano
tasks: [judge]
seeds: [5, 0, 9]
train: {steps: 2}
methods:
  lora: {rank: [2, 8], learning_rate: RATE}
  base:
  full: {precision: [fp32, int8]}
"""


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def grid(done=(), rate="1e-3", make=suite.expand, **options):
        (tmp_path / "s.yaml").write_text(SUITE.replace("RATE", rate))
        trials = make(suite.load("s.yaml", **options), "cpu")
        monkeypatch.setattr(prepare.store, "done", lambda folder: set(done))
        return prepare.prepare(trials, tmp_path / "results", 1, "peftbench run s.yaml")

    return grid


def order(jobs):
    return [(job.trial.seed, job.trial.cell) for job in jobs]


def ended(job, status="ok"):
    made = make_result(job.trial.cell, job.trial.method, seed=job.trial.seed, status=status)
    return Event(job, Phase.EVALUATE, result=made)


def test_every_cells_first_seed_runs_before_any_second(prepared):
    grid = prepared()
    cells = ["lora r=2 fp32", "lora r=8 fp32", "base fp32", "full fp32", "full int8"]
    trained = [cell for cell in cells if cell != "base fp32"]
    assert grid.seeds == (5, 0, 9)
    assert order(grid.pending) == [
        *((None if cell == "base fp32" else 5, cell) for cell in cells),
        *((0, cell) for cell in trained),
        *((9, cell) for cell in trained),
    ]
    assert [cell for _, cell in order(grid.jobs)] == sorted((c for _, c in order(grid.jobs)), key=cells.index), (
        "the recorded grid stays in the suite's order"
    )


def test_what_only_a_cells_first_trial_measures_is_measured_in_the_first_round(prepared):
    grid = prepared()
    first = [job for job in grid.pending if grid.place(job) == 0]
    assert [job.trial.cell for job in grid.pending if job.measures_inference] == [job.trial.cell for job in first]
    assert [job.trial.cell for job in grid.pending if job.predicts] == [
        job.trial.cell for job in first if job.trial.training
    ]


def test_a_continued_run_finishes_the_first_seed_first(prepared):
    whole = prepared().jobs
    left = {("lora r=8 fp32", 5), ("lora r=2 fp32", 9), ("full fp32", 0)}
    done = [job.key for job in whole if (job.trial.cell, job.trial.seed) not in left]
    grid = prepared(done)
    assert order(grid.pending) == [(5, "lora r=8 fp32"), (0, "full fp32"), (9, "lora r=2 fp32")]
    assert [grid.place(job) for job in grid.pending] == [0, 1, 2]


def test_the_keys_do_not_depend_on_the_order(prepared):
    grid = prepared()
    assert {job.key for job in grid.jobs} == {job.key for job in grid.pending}
    alone = prepared(seeds="0,")
    assert {job.key for job in alone.jobs if job.trial.training} < {job.key for job in grid.jobs}


def test_candidates_of_a_search_run_seed_by_seed_too(prepared):
    def make(loaded, device):
        return candidates(replace(loaded, search=replace(loaded.search, seeds=2)), device)

    grid = prepared(rate="[1e-3, 1e-2]", make=make, overrides=["methods.full={learning_rate: [1e-3, 1e-2]}"])
    assert [seed for seed, _ in order(grid.pending)] == [1000] * 6 + [1001] * 6


def test_the_lines_say_which_seed_runs_and_what_is_known_after_the_first(prepared):
    grid, out, asked = prepared(), io.StringIO(), []
    with progress.shown(len(grid.pending), out, Rounds(grid, lambda: asked.append(1) or "table so far")) as observe:
        for job in sorted(grid.pending, key=lambda job: job.trial.unsupported is None):
            if job.trial.unsupported is None:
                observe(Event(job, Phase.START))
            observe(ended(job, "unsupported" if job.trial.unsupported else "ok"))
    lines = out.getvalue().splitlines()
    said = [line for line in lines if not line.startswith("[")]
    assert said == [
        "seed 1 of 3 (seed 5): 4 trials",
        "table so far",
        "seed 2 of 3 (seed 0): 3 trials",
        "seed 3 of 3 (seed 9): 3 trials",
    ]
    assert lines.index("table so far") == lines.index("seed 2 of 3 (seed 0): 3 trials") - 1
    assert asked == [1]
    assert len(lines) == len(said) + 13


def test_one_seed_has_no_rounds_and_a_finished_first_round_is_not_told_again(prepared):
    one = prepared(seeds="1")
    rounds = Rounds(one, lambda: pytest.fail("there is no second seed"))
    for job in one.pending:
        assert rounds.now(job) == rounds.begins(Event(job, Phase.START)) == rounds.ends(ended(job)) == ""
    whole = prepared()
    later = prepared([job.key for job in whole.jobs if whole.place(job) == 0])
    rounds = Rounds(later, lambda: pytest.fail("the first seed was finished before"))
    assert [rounds.now(job) for job in later.pending][:1] == ["seed 2 of 3"]
    assert not any(rounds.ends(ended(job)) for job in later.pending)


def test_the_bar_names_the_round(prepared):
    grid, shown = prepared(), []
    progress_bar = SimpleNamespace(
        add_task=lambda *_, **__: 0,
        update=lambda _, **fields: shown.append(fields["now"]),
        console=SimpleNamespace(print=lambda *_, **__: None),
    )
    bar = progress.Bar(len(grid.pending), progress_bar, Rounds(grid))
    bar(Event(grid.pending[0], Phase.TRAIN, 1, 2, 0.5))
    assert shown == ["lora r=2 fp32 · seed 1 of 3 · train 1/2 · loss 0.500"]
