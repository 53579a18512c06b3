"""Times of trials that shared the machine are in no mean, and page and tables say the same ones."""

import csv
import io
import json

import pytest

from peftbench.report import render, table
from peftbench.report.collect import collect
from peftbench.report.derived.answer import answer
from peftbench.report.tables.presented import Choice
from peftbench.results.busy_machine import is_time
from peftbench.results.history import history
from peftbench.results.watch import night
from tests.support.page_data import PageData
from tests.support.results_factory import make_result, store

BUSY = {"train_waiting_seconds": 60.0, "inference_waiting_seconds": 60.0, "threads": 2}
QUIET = {"train_waiting_seconds": 0.0, "inference_waiting_seconds": 0.0, "threads": 2}
PARTLY, WHOLLY, NEVER = "lora r=8 fp32", "lora r=2 fp32", "full fp32"


def trial(cell, seed, seconds, method="lora", **how):
    bare, tuned = [[1.0, 1.0, 1.0]] * 2, [[1.0, seconds, seconds]] * 2
    raw = {"prompts": 2, "seconds": {"tuned": {"1": tuned}, "bare": {"1": bare}}}
    times = {"train_seconds": seconds, "tokens_per_second": 100 * seconds, "inference_seconds": 1, "wall_seconds": 9}
    more = {"merged_decoded_token_seconds": 0.5, "inference_json": json.dumps(raw), "checkpoint_bytes": 1000}
    return make_result(cell, method, seed=seed, **(times | more | how))


@pytest.fixture(scope="module")
def partly(tmp_path_factory):
    """Return a folder with a cell of one busy and two quiet trials, one of busy trials only, one of quiet ones."""
    made = [trial(PARTLY, 0, 50.0, **BUSY), trial(PARTLY, 1, 10.0, **QUIET), trial(PARTLY, 2, 20.0, **QUIET)]
    made += [trial(WHOLLY, seed, 70.0, **BUSY) for seed in range(3)]
    made += [trial(NEVER, seed, 30.0, "full", **QUIET) for seed in range(3)]
    return store(tmp_path_factory.mktemp("busy") / "r", *made)


def rows(folder):
    return {row["cell"]: row for row in csv.DictReader(io.StringIO(table(folder, "csv")))}


def test_page_tables_and_answer_have_the_mean_of_the_trials_that_were_alone(partly, tmp_path):
    page = PageData(render(partly, tmp_path / "p.html").read_text(encoding="utf-8"))
    costs = answer(collect(partly)).costs
    expected = {PARTLY: 15.0, WHOLLY: None, NEVER: 30.0}
    for cell, seconds in expected.items():
        assert page.column("train_seconds")[cell] == seconds
        assert page.column("tokens_per_second")[cell] == (seconds and 100 * seconds)
        assert page.column("decode_over_base")[cell] == (
            seconds and pytest.approx(200**0.5 if cell == PARTLY else 30, rel=1e-4)
        )
        assert costs[cell].train_seconds == seconds
        assert (costs[cell].decode is None) == (seconds is None)
        stored = rows(partly)[cell]["train_seconds_mean"]
        assert (float(stored) if stored else None) == seconds
    assert page.column("timed_trials") == {PARTLY: "2 of 3", WHOLLY: "0 of 3", NEVER: None}
    assert page.column("checkpoint_bytes")[WHOLLY] == 1000
    assert page.column("merge")[WHOLLY] == "yes"


def test_a_mean_says_of_how_many_trials_it_is_and_the_note_why(partly):
    text = table(partly, "md")
    assert "15.0 ± 7.1 (n=2)" in text
    assert "(n=3)" not in text
    assert "Times of 4 of 9 trials are unreliable" in text
    assert "Means of times leave them out." in text


def test_what_is_no_time_stays(partly):
    cell = next(one for one in collect(partly).cells if one.name == WHOLLY)
    assert cell.mean("train_seconds") is cell.mean("wall_seconds") is None
    assert cell.mean("train_waiting_seconds") == 60.0
    assert cell.mean("trainable_parameters") is not None
    assert list(cell.trials["train_seconds"]) == [70.0] * 3, "each trial keeps what it measured"
    assert is_time("decode_tokens_per_second", "inference")
    assert not is_time("inference_waiting_seconds", "inference")


def test_a_column_that_is_asked_for_leaves_busy_times_out_too(partly):
    asked = table(partly, "md", Choice(("cell", "wall_seconds", "checkpoint_bytes"), "wall_seconds"))
    (line,) = [line for line in asked.splitlines() if "LoRA r=2 " in line]
    assert line.split("|")[2].strip() == "–"
    stored = csv.DictReader(io.StringIO(table(partly, "csv", Choice(("cell", "train_seconds", "inference_seconds")))))
    found = {row["cell"]: row for row in stored}
    assert found[WHOLLY]["inference_seconds_mean"] == ""
    assert float(found[NEVER]["inference_seconds_mean"]) == 1


def test_a_column_that_is_asked_for_says_of_how_many_trials_it_is(tmp_path):
    folder = store(tmp_path / "r", trial(PARTLY, 0, 50.0, **BUSY), trial(PARTLY, 1, 10.0, **QUIET, wall_seconds=12))
    text = table(folder, "md", Choice(("cell", "wall_seconds")))
    assert "| 12.0 (n=1) |" in text


def test_energy_that_other_work_used_is_in_no_mean(tmp_path):
    energy = {"energy_source": "rapl", "workers": 1}
    made = [trial(PARTLY, 0, 50.0, **BUSY, train_energy_joules=9000.0, **energy)]
    made += [trial(PARTLY, 1, 10.0, **QUIET, train_energy_joules=1000.0, **energy)]
    folder = store(tmp_path / "r", *made)
    assert collect(folder).cells[0].mean("train_energy_joules") == 1000.0
    page = PageData(render(folder, tmp_path / "p.html").read_text(encoding="utf-8"))
    assert page.column("train_energy_joules")[PARTLY] == 1000.0


def test_times_beside_another_process_on_the_gpu_count_nowhere(tmp_path):
    gpu = {"device": "cuda", "memory_kind": "allocator", "threads": 2}
    made = [trial(PARTLY, 0, 50.0, other_gpu_processes=1, **gpu), trial(PARTLY, 1, 10.0, other_gpu_processes=0, **gpu)]
    made += [trial(WHOLLY, 0, 70.0, other_gpu_processes=2, **gpu)]
    folder = store(tmp_path / "r", *made)
    assert {cell.name: cell.mean("train_seconds") for cell in collect(folder).cells} == {PARTLY: 10.0, WHOLLY: None}
    page = PageData(render(folder, tmp_path / "p.html").read_text(encoding="utf-8"))
    assert page.column("train_seconds") == {PARTLY: 10.0, WHOLLY: None}
    assert page.column("timed_trials") == {PARTLY: "1 of 2", WHOLLY: "0 of 1"}
    assert answer(collect(folder)).costs[PARTLY].train_seconds == 10.0
    assert "Times of 2 of 3 trials are unreliable: the machine was busy (another process used the GPU)." in table(
        folder, "md"
    )
    assert "the times of 2 of 3 trials are unreliable (GPU shared)" in table(folder, "brief")
    read = night.read(folder)
    assert {cell[1]: len(night.timed(read.records(cell))[0]) for cell in read.cells} == {PARTLY: 1, WHOLLY: 0}
    speeds = {each.cell: each.values for each in history([folder]).series if each.quantity.name == "tokens_per_second"}
    assert speeds == {PARTLY: [1000.0]}
