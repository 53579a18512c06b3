"""No report dies of its numbers: small, degenerate, incomplete and damaged results folders."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace

import pytest

from peftbench import report
from peftbench.report.derived.attempts import Attempts
from peftbench.results.crossed_effects import front
from tests.support.results_factory import make_grid, make_result, store
from tools.validation import report_storm


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_every_drawn_results_folder_has_its_tables_its_page_and_its_comparisons(tmp_path):
    tally = report_storm.storm(tmp_path, range(4), pages=2)
    assert tally.faults == []
    assert tally.counts["csv"] >= 3
    assert tally.counts["page"] >= 1
    assert tally.counts["comparison"] >= 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_hundreds_of_drawn_results_folders_have_their_tables(tmp_path):
    tally = report_storm.storm(tmp_path, range(100_000, 100_400), pages=10)
    assert tally.faults == []
    assert tally.counts["csv"] >= 300


@pytest.mark.parametrize("examples", [1, 2, 4])
@pytest.mark.parametrize("score", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("seeds", [1, 2])
def test_seven_cells_that_score_alike_have_a_report(tmp_path, examples, score, seeds):
    # 7 cells on at most 4 examples: the covariance of their scores is singular
    each = [
        make_result(f"lora r={rank} fp32", rank=rank, seed=seed, scores={"judge": score}, examples=examples)
        for rank in range(1, 8)
        for seed in range(seeds)
    ]
    kept = [replace(result, examples=tuple(_with_mean(result, score))) for result in each]
    folder = store(tmp_path / "r", *kept)
    text = " ".join(report.table(folder, "md").split())
    assert text.count("| LoRA r=") == 7
    assert "Not computed" not in text
    assert "nan" not in text


def _with_mean(result, score):
    """The examples of a result with outcomes whose mean is its score."""
    count = len(result.examples)
    for place, example in enumerate(result.examples):
        yield replace(example, outcome=score if count == 1 else float(place < round(score * count)))


def test_a_statistic_that_fails_is_null_with_a_note_and_the_table_stays(tmp_path, monkeypatch):
    folder = make_grid(tmp_path / "r", seeds=2, steps=2)
    _agreeing(folder)

    def fail(*_):
        raise FloatingPointError("made up")

    monkeypatch.setattr(front, "on_front", fail)
    text = " ".join(report.table(folder, "md").split())
    assert "Not computed: front by memory (FloatingPointError: made up)." in text
    assert "on the front" not in text.partition("Not computed")[0]
    assert "| LoRA r=8 fp32 |" in text


def _agreeing(folder):
    """Make the stored scores the means of the stored outcomes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    (path,) = (folder / "trials").glob("*.parquet")
    (other,) = (folder / "examples").glob("*.parquet")
    means = pq.read_table(other).to_pandas().groupby(["task", "key"])["outcome"].mean()
    found = pq.read_table(path)
    keys = found["key"].to_pylist()
    for task in ("describe", "compute", "judge"):
        place = found.schema.get_field_index(f"score_{task}")
        values = [means[task].get(key, math.nan) for key in keys]
        array = pa.array([None if math.isnan(value) else value for value in values], pa.float64())
        found = found.set_column(place, found.schema.field(place), array)
    pq.write_table(found, path)


def test_only_arithmetic_and_values_fail_quietly():
    tries = Attempts()
    assert tries.result("x", lambda: 1 / 0) is None
    assert tries.failures == ["Not computed: x (ZeroDivisionError: division by zero)."]
    with pytest.raises(KeyError):
        tries.result("x", lambda: {}["a"])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda r: replace(r, examples=()), "a trial's examples are not stored"),
        (lambda r: replace(r, examples=r.examples[:-1]), "its scored examples are not those of the other cells"),
        (
            lambda r: replace(r, examples=(*r.examples[:-1], replace(r.examples[-1], outcome=math.nan))),
            "an outcome of judge is not a finite number",
        ),
        (
            lambda r: replace(r, examples=(*r.examples[:-1], replace(r.examples[-1], target="no"))),
            "its scored examples are not those of the other cells",
        ),
    ],
)
def test_tests_that_are_left_out_are_said_with_the_cell_and_the_reason(tmp_path, change, reason):
    results = [make_result(f"lora r={r} fp32", rank=r, scores={"judge": 1.0}, examples=4) for r in (1, 2, 3)]
    folder = store(tmp_path / "r", *results[:2], change(results[2]))
    text = " ".join(report.table(folder, "text").split())
    assert "No significance tests and no intervals from single examples for judge (LoRA r=3: " in text
    assert reason in text
    assert "No significance tests: not every cell has the outcomes" in report.table(folder, "brief")


def test_damaged_json_of_a_row_is_unknown_and_not_an_error(tmp_path):
    bad = make_result("lora r=1 fp32", rank=1, data_seen_json="{", inference_json="[]", retention_json="null")
    folder = store(tmp_path / "r", bad, make_result(scores_json="{"))
    for kind in report.FORMATS:
        report.table(folder, kind)
    assert "LoRA r=1" in report.table(folder)


def test_numbers_beyond_any_measurement_are_unknown(tmp_path):
    values = [1e308, -1e308, math.inf, math.nan]
    rows = [make_result(seed=seed, train_seconds=value, scores={"judge": 0.5}) for seed, value in enumerate(values)]
    (line,) = (line for line in report.table(store(tmp_path / "r", *rows), "csv").splitlines() if "lora" in line)
    assert "inf" not in line
    assert "nan" not in line
    assert json.dumps(1e308) not in line


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    folder, pipe = store(tmp_path / "r", make_result()), tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    report.publish(folder, pipe, "csv")
    assert os.read(reader, 1000).startswith(b"cell,method")
    os.close(reader)
    assert pipe.is_fifo()
