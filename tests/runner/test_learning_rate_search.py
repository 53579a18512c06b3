"""The learning-rate search: candidates, the selected rate, and a test split that is read only after the selection."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import statistics
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from peftbench import cli, report, suite
from peftbench.errors import UserError
from peftbench.report import collect
from peftbench.report.notes import learning_rate_search as search_notes
from peftbench.results import learning_rate_search, store
from peftbench.runner import grid, prepare, stages
from peftbench.suite import trial_key
from peftbench.suite.learning_rate_search import FIRST_SEED, candidate_name, candidates
from tests.support.page_data import PageData
from tests.support.results_factory import make_result
from tests.support.results_factory import store as store_results
from tests.support.sample import sample

SUITE = """
base: nano
tasks: [compute, judge]
train: {steps: 40, batch_size: 4}
seeds: 2
methods:
  base:
  full: {learning_rate: [1e-4, 1e-3, 1e-2]}
  lora: {rank: [2, 4], learning_rate: [1e-3, 1e-2, 1e-1]}
"""


@pytest.fixture
def load(tmp_path):
    """A function that loads the suite with overrides."""

    def read(text: str = SUITE, *overrides: str, **more) -> suite.Suite:
        path = tmp_path / "grid.yaml"
        path.write_text(text)
        return suite.load(path, overrides=overrides, **more)

    return read


def test_several_learning_rates_are_candidates_of_one_cell_and_not_cells(load):
    found = suite.expand(load(), "cpu")
    assert [t.cell for t in found if not t.seed] == ["base fp32", "full fp32", "lora r=2 fp32", "lora r=4 fp32"]
    assert {t.training.learning_rate for t in found if t.method == "full"} == {1e-4}, "the smallest where none is known"
    chosen = suite.expand(load(), "cpu", {"lora r=4 fp32": 1e-2})
    assert {t.training.learning_rate for t in chosen if t.rank == 4} == {1e-2}


def test_a_candidate_differs_from_its_cell_in_rate_seed_length_and_split(load):
    loaded = load()
    tried = candidates(loaded, "cpu")
    assert [t.cell for t in tried[:3]] == ["full lr=0.0001 fp32", "full lr=0.001 fp32", "full lr=0.01 fp32"]
    assert len(tried) == 9, "three cells, three rates, one seed"
    final = next(t for t in suite.expand(loaded, "cpu") if t.method == "full")
    one = tried[1]
    assert {t.seed for t in tried} == {FIRST_SEED}
    assert one.training == replace(final.training, steps=20, learning_rate=1e-3)
    assert (one.evaluation.split, final.evaluation.split) == ("validation", "test")
    assert (one.candidate_of, one.named_settings) == ("full fp32", "lr=0.001")
    same = {"training", "evaluation", "seed", "cell", "inference", "retention", "candidate_of", "named_settings"}
    assert all(getattr(one, name) == getattr(final, name) for name in final.__dataclass_fields__ if name not in same)


def test_all_candidates_have_equal_budgets_and_seeds_outside_the_grid(load):
    tried = candidates(load(SUITE, "search.seeds=2", "search.share=0.25", f"seeds=[0, {FIRST_SEED}]"), "cpu")
    assert {t.seed for t in tried} == {FIRST_SEED + 1, FIRST_SEED + 2}
    assert {t.training.steps for t in tried} == {10}
    epochs = candidates(load(SUITE.replace("steps: 40", "epochs: 3")), "cpu")
    assert {(t.training.steps, t.training.epochs) for t in epochs} == {(None, 1.5)}
    assert {t.training.steps for t in candidates(load(SUITE, "train.steps=1"), "cpu")} == {1}


def test_more_seeds_in_the_grid_do_not_change_the_search(load):
    few, many = (candidates(load(SUITE, f"seeds={n}"), "cpu") for n in (1, 5))
    assert few == many


def test_search_false_makes_the_rates_an_axis(load):
    loaded = load(SUITE, "search=false")
    assert candidates(loaded, "cpu") == ()
    assert "full lr=0.001 fp32" in {t.cell for t in suite.expand(loaded, "cpu")}


def test_a_cell_that_cannot_exist_is_not_searched(load):
    tried = candidates(load(SUITE, "methods.full.precision=[fp32, nf4]"), "cpu")
    assert {t.precision for t in tried} == {"fp32"}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["methods.lora.learning_rate=[1e-3, 1e-2]"], ["2 candidates, but 3 in", "equally many for each method"]),
        (["methods.full.learning_rate=[1e-3, 1e-3, 1e-2]"], ["a rate is given twice"]),
        (["evaluate.split=validation"], ["evaluate.split: given 'validation'", "allowed: test"]),
        (["search.share=0"], ["search.share: given 0", "above 0"]),
        (["search.sedes=1"], ["unknown key 'sedes'", "did you mean 'seeds'"]),
        (["search=yes"], ["search: given 'yes'", "a mapping"]),
    ],
)
def test_an_unfair_search_is_refused(load, overrides, words):
    with pytest.raises(UserError) as error:
        suite.expand(load(SUITE, *overrides), "cpu")
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_search_needs_tasks_with_a_validation_split(load, tmp_path):
    own = "{mine: {kind: choice, train: a.csv, test: b.csv, prompt: p, target: t, choices: [t, u]}}"
    text = SUITE.replace("[compute, judge]", own)
    with pytest.raises(UserError, match=r"validation split, which no scored task has: give validation or"):
        suite.expand(load(text), "cpu")
    assert candidates(load(text.replace("choices", "validation_fraction: 0.1, choices")), "cpu")
    both = text.replace("{mine", "{judge: , mine").replace("train: a.csv, ", "")
    tried = candidates(load(both), "cpu")[0]
    assert (tried.evaluate, [task.name for task in tried.tasks]) == (("judge",), ["judge"]), "chosen on what has one"


def _write(folder: Path, scores: dict[str, dict[float, float | str]], seeds: int = 1) -> None:
    """Store a search: for each cell and rate the validation score, or the status of its trials."""
    store.open_for_run(folder / learning_rate_search.FOLDER, ("judge",))
    results = []
    for cell, tried in scores.items():
        method, precision = cell.split()[0], cell.split()[-1]
        for (rate, score), seed in itertools.product(tried.items(), range(seeds)):
            ended = {"status": score} if isinstance(score, str) else {"scores": {"judge": score + 0.01 * seed}}
            name = candidate_name(cell, precision, rate)
            settings = json.dumps({"method": method, "evaluate": ["judge"]})
            more = {"seed": FIRST_SEED + seed, "learning_rate": rate, "settings_json": settings, "candidate_of": cell}
            results.append(make_result(name, method, precision, **more, **ended))
    store_results(folder / learning_rate_search.FOLDER, *results)


def chosen(folder: Path) -> dict[str, float]:
    """The selected rate of each searched cell that has one."""
    return {cell: found.best.rate for cell, found in learning_rate_search.searches(folder).items() if found.best}


def test_the_best_rate_on_validation_is_selected_and_the_smallest_among_equals(tmp_path):
    _write(
        tmp_path, {"full fp32": {1e-3: 0.5, 1e-2: 0.7, 1e-1: 0.7}, "lora fp32": {1e-3: 0.9, 1e-2: 0.2, 1e-1: 0.1}}, 2
    )
    found = learning_rate_search.searches(tmp_path)
    assert chosen(tmp_path) == {"full fp32": 1e-2, "lora fp32": 1e-3}
    assert found["full fp32"].best.score == pytest.approx(0.705), "the mean over the search's seeds"
    assert (found["full fp32"].edge, found["lora fp32"].edge) == (None, "smallest")
    assert found["lora fp32"].seeds == (FIRST_SEED, FIRST_SEED + 1)


def test_candidates_with_equal_scores_are_undecided_and_no_edge(tmp_path):
    _write(tmp_path, {"full fp32": {1e-3: 0.5, 1e-2: 0.5}, "lora fp32": {1e-3: 0.1, 1e-2: 0.3, 1e-1: 0.3}})
    found = learning_rate_search.searches(tmp_path)
    full, lora = found["full fp32"], found["lora fp32"]
    assert (full.undecided, full.edge, full.best.rate) == (True, None, 1e-3)
    assert (lora.undecided, lora.edge, lora.best.rate) == (False, None, 1e-2)


def test_a_candidate_that_failed_is_not_selected_and_its_status_is_listed(tmp_path):
    _write(tmp_path, {"full fp32": {1e-3: 0.1, 1e-2: "diverged"}, "lora fp32": {1e-3: "oom", 1e-2: "oom"}})
    found = learning_rate_search.searches(tmp_path)
    assert chosen(tmp_path) == {"full fp32": 1e-3}
    assert found["full fp32"].candidates[1].failures == ("diverged",)
    assert found["lora fp32"].best is None


def test_the_best_so_far_is_the_expectation_over_all_orders():
    draw = random.Random(7)
    scores = [draw.random() for _ in range(5)]
    orders = list(itertools.permutations(scores))
    wanted = [statistics.fmean(max(order[:n]) for order in orders) for n in range(1, 6)]
    assert learning_rate_search.expected_best(scores) == pytest.approx(wanted)


def test_the_grid_is_made_after_the_search_with_the_selected_rates(load, tmp_path):
    loaded = load(SUITE, only=["method=full,base"])
    steps = stages.stages(loaded, "cpu", tmp_path)
    first = next(steps)
    assert (first.searches, first.folder, len(first.trials), len(first.whole)) == (True, tmp_path / "search", 3, 9)
    _write(tmp_path, {"full fp32": {1e-4: 0.5, 1e-3: 0.7, 1e-2: 0.3}})
    second = next(steps)
    assert {t.training.learning_rate for t in second.trials if t.training} == {1e-3}
    assert {t.cell for t in second.whole} == {"base fp32", "full fp32"}, "the others' rates are not known yet"
    assert next(steps, None) is None


def test_a_task_that_the_suite_no_longer_has_does_not_change_the_selection(tmp_path):
    store.open_for_run(tmp_path / learning_rate_search.FOLDER, ("judge", "compute"))
    _write(tmp_path, {"full fp32": {1e-3: 0.2, 1e-2: 0.9}})
    assert chosen(tmp_path) == {"full fp32": 1e-2}


def test_a_search_without_ended_trials_is_empty(searched_folder):
    grid_of = store.recorded_grid(searched_folder)
    shutil.rmtree(searched_folder / "search")
    store.open_for_run(searched_folder / "search", ("judge",))
    store.record_grid(searched_folder / "search", ["nothing of it has ended"], "peftbench run x")
    assert learning_rate_search.searches(searched_folder) == {}
    assert report.table(searched_folder), "the grid's own results can be read"
    assert store.recorded_grid(searched_folder) == grid_of


@pytest.mark.parametrize(("ended", "waits"), [("killed", True), ("error", True), ("timeout", True), ("oom", False)])
def test_a_cell_waits_until_each_of_its_candidates_was_tried(load, tmp_path, ended, waits):
    loaded = load(SUITE, only=["method=full,base"])
    steps = stages.stages(loaded, "cpu", tmp_path)
    next(steps)
    _write(tmp_path, {"full fp32": {1e-4: 0.5, 1e-3: ended, 1e-2: 0.3}})
    stage = next(steps)
    assert {t.method for t in stage.trials} == ({"base"} if waits else {"base", "full"})
    assert any("is not complete" in note for note in stage.notes) == waits
    if waits:
        steps = stages.stages(load(SUITE, only=["method=full"]), "cpu", tmp_path)
        next(steps)
        with pytest.raises(UserError, match="the learning-rate search of full fp32 is not complete"):
            next(steps)


def test_a_cell_waits_for_a_rate_without_a_trial(load, tmp_path):
    _write(tmp_path, {"full fp32": {1e-4: 0.5, 1e-3: 0.7}})
    steps = stages.stages(load(SUITE, only=["method=full,base"]), "cpu", tmp_path)
    next(steps)
    assert {t.method for t in next(steps).trials} == {"base"}


@pytest.mark.parametrize(
    ("fresh", "only", "runs"), sample([(False, [], 0), (True, [], 9), (True, ["--only", "method=lora"], 0)], 2)
)
def test_a_search_that_other_cells_use_is_not_repeated_for_some_of_them(load, tmp_path, monkeypatch, fresh, only, runs):
    load()
    _write(tmp_path / "out", {"full fp32": dict.fromkeys((1e-4, 1e-3, 1e-2), 0.5)})
    ran: list[int] = []

    def run(prepared, observe, execute):
        ran.append(len(prepared.pending))
        return grid.Outcome({"ok": 1}, None, ())

    monkeypatch.setattr(grid, "run", run)
    monkeypatch.setattr(store, "done", lambda folder: {job_key(t) for t in candidates(load(), "cpu")})
    asked = ["run", str(tmp_path / "grid.yaml"), "-o", str(tmp_path / "out"), *(["--fresh"] if fresh else []), *only]
    cli.main(asked)
    assert ran[0] == runs


def job_key(trial) -> str:
    return prepare.Inputs().key(trial)


def test_a_search_of_unsupported_cells_does_not_claim_that_no_cell_can_run(load, tmp_path, monkeypatch, capsys):
    load()
    _write(tmp_path, {"full fp32": dict.fromkeys((1e-4, 1e-3, 1e-2), "unsupported")})
    found = learning_rate_search.searches(tmp_path)
    monkeypatch.setattr(learning_rate_search, "searches", lambda folder: found)
    monkeypatch.setattr(grid, "run", lambda prepared, observe, execute: grid.Outcome({"unsupported": 3}, None, ()))
    cli.main(["run", str(tmp_path / "grid.yaml"), "-o", str(tmp_path / "out"), "--only", "method=full"])
    assert capsys.readouterr().err.count("none can run") == 1, "said of the grid, not of the search"


def test_a_searched_cell_stays_in_the_grid_even_if_no_candidate_ended_ok(load, tmp_path):
    _write(
        tmp_path,
        {"full fp32": {1e-4: 0.5, 1e-3: 0.7, 1e-2: 0.3}, "lora r=2 fp32": dict.fromkeys((1e-3, 1e-2, 1e-1), "oom")},
    )
    steps = stages.stages(load(SUITE, only=["method=full"]), "cpu", tmp_path)
    next(steps)
    assert {t.cell for t in next(steps).whole} == {"base fp32", "full fp32", "lora r=2 fp32"}
    steps = stages.stages(load(SUITE, only=["rank=2"]), "cpu", tmp_path)
    next(steps)
    assert next(steps).notes == ("no candidate ended ok, so the smallest learning rate is used: lora r=2 fp32",)


def test_a_searched_cell_and_a_cell_with_a_pinned_rate_are_in_one_grid(load):
    blocks = "lora: [{learning_rate: [1e-3, 1e-2]}, {learning_rate: %s, batch_size: 8}]"
    text = SUITE[: SUITE.index("  full")] + "  " + blocks
    found = suite.expand(load(text % "5e-4"), "cpu", {"lora r=8 batch_size=4 lr=searched fp32": 1e-2})
    rates = {t.cell: t.training.learning_rate for t in found if t.training}
    assert rates == {"lora r=8 batch_size=4 lr=searched fp32": 1e-2, "lora r=8 batch_size=8 lr=0.0005 fp32": 5e-4}
    same = (text % "1e-2").replace(", batch_size: 8", "")
    with pytest.raises(UserError, match="the same cell twice"):
        suite.expand(load(same), "cpu")


def test_random_weights_have_no_best_rate(load):
    text = SUITE.replace("base: nano\n", "base: {shape: gpt2-medium, weights: random}\n", 1)
    with pytest.raises(UserError, match="random weights are not scored"):
        candidates(load(text), "cpu")


def test_a_suite_without_lists_has_one_stage(load, tmp_path):
    (only,) = stages.stages(
        load(SUITE.replace("[1e-4, 1e-3, 1e-2]", "1e-3").replace("[1e-3, 1e-2, 1e-1]", "1e-2")), "cpu", tmp_path
    )
    assert not only.searches
    assert only.trials == only.whole


@pytest.fixture
def searched_folder(tmp_path) -> Path:
    """A results folder with a finished grid and its search."""
    folder = tmp_path / "results"
    _write(folder, {"full fp32": {1e-3: 0.5, 1e-2: 0.7}, "lora r=4 fp32": {1e-2: 0.9, 1e-1: "diverged"}})
    store.open_for_run(folder, ("judge",))
    cells = (("full fp32", "full", None, 1e-2), ("lora r=4 fp32", "lora", 4, 1e-1))
    results = [
        make_result(cell, method, rank=rank, seed=seed, learning_rate=rate)
        for cell, method, rank, rate in cells
        for seed in range(2)
    ]
    return store_results(
        folder, *results, make_result("adapter r=4 fp32", "adapter", rank=4, seed=0, learning_rate=1e-3)
    )


def test_a_note_under_the_table_names_searched_and_pinned_rates(searched_folder):
    told = list(search_notes.notes(collect.collect(searched_folder)))
    assert told == [
        "Learning rates were selected on the validation split from 2 candidates per cell (seed 1000; 4 trials before "
        "these).",
        "Learning rate given by the suite, not searched: adapter r=4 fp32.",
        "Best learning rate at the edge of the candidates; a better one may lie outside: full fp32 (0.01, the "
        "largest); lora r=4 fp32 (0.01, the smallest).",
        "Candidates that failed and were not selected: lora r=4 fp32 at 0.1 (diverged).",
        "Trained with a learning rate other than the one selected now: lora r=4 fp32.",
    ]


def test_the_note_that_the_test_split_was_read_once_is_shown_only_if_true(searched_folder):
    rows = {"rank": 4, "learning_rate": 1e-2, "finished_at": "2026-11-23T00:00:00+00:00"}
    for seed in range(2):
        result = make_result("lora r=4 fp32", "lora", seed=seed, **rows)
        store.write(searched_folder, result, ("judge",))
    told = " ".join(search_notes.notes(collect.collect(searched_folder)))
    assert "the test split was used only with the selected rates" in told
    assert "Trained with a learning rate other" not in told


def test_the_report_shows_every_candidate_and_draws_them(searched_folder, tmp_path):
    text = report.table(searched_folder, "md")
    assert "| full fine-tuning | 0.01 | 1.00 | 70.0 | 0.001: 50.0, 0.01: 70.0\\* | 2 |" in text
    assert "| LoRA r=4 | 0.01 | 1.00 | 90.0 | 0.01: 90.0\\*, 0.1: – | 2 |" in text
    core = PageData(report.render(searched_folder, tmp_path / "page.html").read_text()).core
    assert core["search"]["rows"]
    assert {round(score, 2) for _, _, score in core["search"]["tried"]} == {0.5, 0.7, 0.9}
    assert core["search"]["spent"]


def test_no_report_is_written_into_the_search(searched_folder):
    with pytest.raises(UserError, match="only results are stored there"):
        report.render(searched_folder, searched_folder / "search" / "page.html")


def test_run_searches_and_then_trains_with_the_selected_rates(load, tmp_path, monkeypatch, capsys):
    """Through the command line, with trials that score best at 0.001."""
    load()  # writes the file
    ran: list[tuple[str, float | None, str]] = []

    def run(prepared, observe, execute):
        for job in prepared.pending:
            trial = job.trial
            rate = trial.training.learning_rate if trial.training else None
            ran.append((trial.cell, rate, trial.evaluation.split))
            diverged = rate == 1e-1
            settings = json.dumps(trial_key.settings(trial))
            row = {
                "key": job.key,
                "settings_json": settings,
                "learning_rate": rate,
                "seed": trial.seed,
                "rank": trial.rank,
            }
            ended = (
                {"status": "diverged"}
                if diverged
                else {"scores": dict.fromkeys(prepared.tasks, 0.6 if rate == 1e-3 else 0.4)}
            )
            store.write(prepared.folder, make_result(trial.cell, trial.method, **row, **ended), prepared.tasks)
        rows = store.read_trials(prepared.folder)
        return grid.Outcome(dict(rows["status"].value_counts()), None, ())

    monkeypatch.setattr(grid, "run", run)
    assert cli.main(["run", str(tmp_path / "grid.yaml"), "-o", str(tmp_path / "out")]) == 0, "a search may diverge"
    assert {split for cell, _, split in ran if "lr=" in cell} == {"validation"}
    finals = {(cell, rate) for cell, rate, split in ran if split == "test"}
    assert finals == {("base fp32", None), ("full fp32", 1e-3), ("lora r=2 fp32", 1e-3), ("lora r=4 fp32", 1e-3)}
    ran.clear()
    assert cli.main(["run", str(tmp_path / "grid.yaml"), "-o", str(tmp_path / "out")]) == 0
    assert ran == [], "a second run has nothing to do, in neither stage"
    assert "learning-rate search: 9 cells, 1 seed (1000): 9 trials, 9 of them done already" in capsys.readouterr().err


def test_plan_announces_the_search(load, tmp_path, capsys):
    load()
    assert cli.main(["plan", str(tmp_path / "grid.yaml")]) == 0
    assert (
        "a learning-rate search on the validation split runs first: 9 cells, 1 seed (1000): 9 trials"
        in capsys.readouterr().out
    )


def test_rows_of_a_search_are_not_in_the_grids_tables(searched_folder):
    assert not store.read_trials(searched_folder)["cell"].str.contains("lr=").any()
    assert len(pd.read_parquet(searched_folder / "search" / "trials")) == 4
