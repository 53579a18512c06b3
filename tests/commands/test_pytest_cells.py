"""A suite's cells as benchmarks: pytest-benchmark itself reads, saves and compares them."""

from __future__ import annotations

import json

import pandas as pd
import pytest

import peftbench
from peftbench.commands import pytest_cells
from peftbench.errors import UserError
from peftbench.results.store.schema import columns
from tests.support import colours

pytest_plugins = ["pytester"]

SUITE = colours.suite("{base}", "train: {{steps: 2, batch_size: 2, sequence_length: 32}}\nmethods: {methods}\n")
FILE = """
import peftbench

GRID = peftbench.benchmark_suite("mine.yaml", "night", seeds=2)

@GRID.each_cell
def test_cell(cell, benchmark):
    GRID.record(cell, benchmark)
"""


def row(cell, seed, seconds=1.0, **changed):
    values = {
        "status": "ok",
        "message": None,
        "train_seconds": seconds,
        "peak_train_bytes": 1000 + seed,
        "score_x": 0.5,
    }
    return {"cell": cell, "seed": seed, **values, "score_x_standard_error": 0.1, **changed}


ROWS = [row("full fp32", 0), row("full fp32", 1, 3.0), row("lora r=8 fp32", 0, 0.5), row("lora r=8 fp32", 1, 0.5)]


@pytest.fixture
def place(pytester, tiny, monkeypatch):
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)  # pytest-benchmark measures nothing in xdist's workers
    (pytester.path / "mine.yaml").write_text(SUITE.format(base=tiny, methods="[base, full, lora]"))
    (pytester.path / colours.FILE).write_text(colours.DATA)
    pytester.makepyfile(test_mine=FILE)
    return pytester


@pytest.fixture
def rows(monkeypatch):
    """The rows that the cells have, in place of a run's: a list that a test may change."""
    held = list(ROWS)
    monkeypatch.setattr(pytest_cells.SuiteBenchmark, "_rows", property(lambda self: pd.DataFrame(held)))
    return held


def ran(place, *options, run="runpytest_inprocess"):
    """Run the file of cells; in this process unless trials run, since it would import all of peftbench anew."""
    options = ("-p", "no:xdist", "-p", "no:cacheprovider", "--benchmark-storage=store", *options)
    return getattr(place, run)(*options)


def test_a_round_is_a_seed_and_its_time_is_the_measured_training_time(place, rows):
    ran(place, "--benchmark-json=made.json").assert_outcomes(passed=2)
    full, lora = json.loads((place.path / "made.json").read_text())["benchmarks"]
    assert (full["params"], full["group"]) == ({"cell": "full fp32"}, "mine")
    assert full["stats"]["data"] == pytest.approx([1.0, 3.0])
    assert lora["stats"]["mean"] == pytest.approx(0.5)
    assert full["extra_info"] == {"peak_train_bytes": 1000.5, "score_x": 0.5}


def test_pytest_benchmarks_own_comparison_fails_on_a_slower_cell_only(place, rows):
    ran(place, "--benchmark-save=old").assert_outcomes(passed=2)
    unchanged = ran(place, "--benchmark-compare", "--benchmark-compare-fail=mean:5%")
    assert unchanged.ret == 0
    rows[2:] = [row("lora r=8 fp32", 0, 0.55), row("lora r=8 fp32", 1, 0.55)]
    slower = ran(place, "--benchmark-compare", "--benchmark-compare-fail=mean:5%")
    assert slower.ret != 0
    told = [line for line in slower.errlines if "mean" in line and "test_cell" in line]
    assert ["lora r=8 fp32" in line for line in told] == [True], slower.errlines


def test_a_trial_that_is_not_ok_fails_its_cell_with_status_and_message(place, rows):
    rows[3] = row("lora r=8 fp32", 1, None, status="oom", message="needs 9 GiB")
    result = ran(place)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*lora r=8 fp32 did not end ok: seed 1: oom, needs 9 GiB*"])


def test_every_number_of_a_benchmark_is_a_column():
    assert set(pytest_cells.NUMBERS) <= {column.name for column in columns("trials")}


def test_a_cell_without_rows_fails(place, rows):
    del rows[2:]
    result = ran(place)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*lora r=8 fp32 did not end ok: it has no trial*"])


@pytest.mark.slow
def test_a_real_grid_runs_once_and_its_rows_are_the_rounds(place):
    ran(place, "--benchmark-json=made.json", run="runpytest_subprocess").assert_outcomes(passed=2)
    rows = peftbench.read_results(place.path / "night").trials
    for made in json.loads((place.path / "made.json").read_text())["benchmarks"]:
        measured = rows[rows["cell"] == made["params"]["cell"]]["train_seconds"]
        assert made["stats"]["data"] == pytest.approx(list(measured))


def test_the_cells_are_known_without_a_run_and_the_base_is_none(place):
    grid = pytest_cells.benchmark_suite("mine.yaml", "night")
    assert grid.cells == ("full fp32", "lora r=8 fp32")
    assert not (place.path / "night").exists()


def test_a_suite_that_searches_learning_rates_is_refused(place):
    searched = SUITE.format(base="nano", methods="{lora: {learning_rate: [1e-3, 1e-2]}}")
    (place.path / "mine.yaml").write_text(
        searched.replace("train: colours.jsonl", "train: colours.jsonl\n    validation: colours.jsonl")
    )
    with pytest.raises(UserError, match="search of learning rates cannot run as benchmarks"):
        pytest_cells.benchmark_suite("mine.yaml")
