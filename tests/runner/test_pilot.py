"""Times predicted from pilots of a few steps, and how far off they were."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from peftbench import cli, suite
from peftbench.commands import expected, plan_json, plan_time
from peftbench.records import Phase, Status
from peftbench.results import store
from peftbench.runner import pilot, pilot_clock
from peftbench.runner.executor import Event
from peftbench.runner.pilot import Measured
from peftbench.suite import learning_rate_search
from peftbench.tasks import read
from tests.support import trials
from tests.support.results_factory import make_result
from tools.validation import time_accuracy

KNOWN = Measured(
    fixed_seconds=2.0,
    forecast_seconds=2.0,
    inference_seconds=3.0,
    first_steps_seconds=3.0,
    first_steps=3,
    step_seconds=0.5,
    tokens_per_step=100.0,
    validation_seconds_per_example=0.25,
    scoring_seconds=1.0,
    seconds_per_character=0.01,
    retention_seconds=7.0,
)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def made(tmp_path):
    return trials.trial("nano", tmp_path)


def changed(made, **training):
    return replace(made, training=replace(made.training, **training))


def test_steps_are_extrapolated_linearly_and_scoring_by_the_length_of_the_texts(made):
    texts = pilot.characters(made, read.examples)
    plain = 2.0 + 1.0 + 0.01 * texts
    longer = pilot.seconds(changed(made, steps=103), KNOWN, False, read.examples)
    assert longer == pytest.approx(plain + 3.0 + 100 * 0.5)
    assert pilot.seconds(changed(made, steps=103), KNOWN, True, read.examples) == pytest.approx(longer + 5.0)
    validated = changed(made, steps=103, validate_every=10)
    examples = 8 * len(made.training.data)
    assert pilot.seconds(validated, KNOWN, False, read.examples) == pytest.approx(longer + 11 * examples * 0.25)
    assert pilot.seconds(replace(made, training=None), KNOWN, False, read.examples) == pytest.approx(plain)


@pytest.mark.parametrize(
    ("training", "steps"),
    [({"epochs": 2.0}, 12), ({"epochs": 2.01}, 13), ({"tokens": 2000}, 20), ({"seconds": 60.0}, None)],
)
def test_every_length_of_training_has_a_time(made, training, steps):
    asked = changed(made, **{"steps": None, **training})
    plain = pilot.seconds(replace(made, training=None), KNOWN, False, read.examples)
    train = 60.0 if steps is None else 3.0 + (steps - 3) * 0.5
    assert pilot.seconds(asked, KNOWN, False, read.examples) == pytest.approx(plain + train)


def test_a_pilot_that_failed_predicts_nothing(made):
    failed = Measured(step_seconds=1.0, problem="timeout in phase evaluate: stopped after 60 s")
    assert pilot.seconds(made, failed, False, read.examples) is None
    (cell,) = (plan_time.CellTime("a", 3, None, None, 1.0, failed.problem),)
    text = "\n".join(plan_time.lines([cell], 1))
    assert "a: not known: timeout in phase evaluate" in text
    assert "at least 0.00 s" in text


def test_a_trial_that_ends_unsupported_takes_no_more_time_than_that(made, tmp_path):
    row = replace(
        make_result().row.updated(), status=Status.UNSUPPORTED, phase="attach", message="no", wall_seconds=3.0
    )
    known = pilot._of(SimpleNamespace(trial=made), SimpleNamespace(row=row, steps=()), [])
    assert pilot.seconds(made, known, False, read.examples) == 3.0
    cell = plan_time._cell(made.cell, [made], {pilot.shape(made): known}, read.examples)
    text = "\n".join(plan_time.lines([cell], 1))
    assert f"{made.cell}: unsupported in phase attach: no" in text
    assert "at least" not in text
    plan_time.keep_unsupported([made], {made.cell: "no"})
    jobs = [trials.job(made, tmp_path)]
    times = expected.Expected(SimpleNamespace(pending=jobs, workers=1))
    assert times.left() == 0.0


def test_the_time_of_a_training_within_the_first_steps_is_known(made):
    short = replace(KNOWN, step_seconds=None)
    plain = pilot.seconds(replace(made, training=None), short, False, read.examples)
    assert pilot.seconds(changed(made, steps=2), short, False, read.examples) == pytest.approx(plain + 2.0)
    cell = plan_time._cell("a", [changed(made, steps=9)], {pilot.shape(made): short}, read.examples)
    assert (cell.total_seconds, cell.problem) == (None, pilot.NO_STEP)


def test_a_search_says_of_which_cells_its_time_is_not_known(made, monkeypatch):
    failed = Measured(problem="oom in phase train: no memory")
    monkeypatch.setattr(pilot, "measure", lambda trials, observe: {pilot.shape(trial): failed for trial in trials})
    tried = [replace(made, cell="a 1e-3", candidate_of=made.cell)]
    (_, search) = plan_time.predict([made], tried, read.examples)
    assert (search.total_seconds, search.problem) == (None, f"{made.cell}: oom in phase train: no memory")


def test_waiting_on_a_gpu_is_a_share_of_the_one_thread_that_works(made):
    result = SimpleNamespace(row=SimpleNamespace(train_waiting_seconds=2.0, train_seconds=10.0))
    shares = [plan_time.waited(replace(made, device=each, threads=4), result) for each in ("cpu", "cuda")]
    assert shares == [pytest.approx(0.05), pytest.approx(0.2)]


def test_seeds_rates_and_amounts_do_not_make_another_shape_but_ranks_do(made):
    same = (replace(made, seed=7), changed(made, learning_rate=1.0), changed(made, steps=99))
    assert {pilot.shape(each) for each in same} == {pilot.shape(made)}
    other = (replace(made, rank=5), changed(made, micro_batch_size=2), replace(made, threads=7))
    assert len({pilot.shape(each) for each in (made, *other)}) == 4


def test_what_pilots_took_is_kept_and_damage_is_nothing_known(tmp_path):
    pilot.store({"a": KNOWN})
    pilot.store({"b": Measured()})
    assert pilot.stored() == {"a": replace(KNOWN, made_by="plan --time"), "b": Measured(made_by="plan --time")}
    (tmp_path / "cache" / "peftbench" / "pilots.json").write_text("[")
    assert pilot.stored() == {}


def test_pilots_are_forgotten_where_the_cache_cannot_be_written(made, tmp_path):
    (tmp_path / "cache").write_text("a file")
    pilot.store({pilot.shape(made): KNOWN})
    assert pilot.stored() == {}


def test_a_shape_is_measured_once_with_few_steps_and_examples_and_a_limit(tiny, tmp_path, monkeypatch):
    made = trials.trial(tiny, tmp_path, training={"steps": 500})
    seen = []

    def run(job):
        seen.append(job.trial)
        return trials.run(job.trial, tmp_path), [0.0, 1.0]

    monkeypatch.setattr(pilot, "_run", run)
    grid = [made, replace(made, seed=1), replace(changed(made, learning_rate=0.5), cell="other")]
    found = pilot.measure(grid, lambda *_: None)
    (one,) = seen
    assert (one.training.steps, one.timeout_seconds, one.cell) == (8, pilot.SHARED, made.cell)
    (known,) = found.values()
    assert known.problem is None
    assert min(known.step_seconds, known.fixed_seconds, known.scoring_seconds, known.seconds_per_character) > 0
    assert known.first_steps == 1


def test_a_shape_that_cells_share_has_a_shorter_pilot_and_none_is_longer_than_its_trial(made):
    shared, alone = replace(made, cell="shared", seed=7), replace(made, cell="alone", rank=5)
    short = replace(alone, timeout_seconds=9.0)
    assert pilot.limits([made, shared, alone]) == {
        pilot.shape(made): pilot.SHARED,
        pilot.shape(alone): pilot.LONGEST,
    }
    assert pilot.limits([short]) == {pilot.shape(alone): 9.0}


def test_other_data_and_other_measurements_are_another_shape(made, tmp_path):
    before = pilot.shape(made)
    assert pilot.shape(replace(made, seed=5)) == before
    assert pilot.shape(replace(made, inference=not made.inference)) != before
    path = tmp_path / "colours.jsonl"
    path.write_text(path.read_text() + path.read_text())
    assert pilot.shape(made) != before


def test_validation_is_counted_by_example_however_often_the_pilot_validates(tiny, tmp_path, monkeypatch):
    results = []

    def run(job):
        results.append(trials.run(job.trial, tmp_path))
        return results[-1], [0.0, 1.0]

    monkeypatch.setattr(pilot, "_run", run)
    made = trials.trial(tiny, tmp_path, training={"steps": 6, "validate_every": 2})
    (known,) = pilot.measure([made], lambda *_: None).values()
    assert sum(step.validation_loss is not None for step in results[0].steps) == 3
    examples = 3 * 8 * len(made.training.data)
    assert known.validation_seconds_per_example * examples == pytest.approx(results[0].row.validate_seconds)


def test_a_pilot_that_is_stopped_tells_its_steps(made, tmp_path):
    row = make_result().row.updated()
    stopped = replace(row, status=Status.TIMEOUT, phase="evaluate", message="stopped after 60 s")
    found = pilot._of(SimpleNamespace(trial=made), SimpleNamespace(row=stopped, steps=()), [1.0, 3.0, 5.0])
    assert found.step_seconds == 2.0
    assert found.problem == "the pilot reached its limit in phase evaluate (stopped after 60 s)"


def test_a_pilot_that_is_stopped_after_its_scoring_predicts_steps_and_scoring(made):
    took = {"load_seconds": 2.0, "train_seconds": 9.0, "evaluate_seconds": 4.0, "inference_seconds": 20.0}
    stopped = replace(make_result().row, evaluate_prefill_seconds=None, evaluate_decode_seconds=None)
    stopped = replace(stopped, status=Status.TIMEOUT, phase="inference", message="stopped after 60 s", **took)
    asked = changed(made, untimed_steps=1)
    known = pilot._of(SimpleNamespace(trial=asked), SimpleNamespace(row=stopped, steps=()), [5.0, 7.0, 9.0])
    why = "the pilot reached its limit in phase inference (stopped after 60 s)"
    assert (known.problem, known.step_seconds, known.first_steps, known.first_steps_seconds) == (None, 2.0, 1, 5.0)
    assert known.incomplete == f"{why}; of that phase only what was measured until then is counted"
    plain = known.fixed_seconds + 4.0 + 5.0
    assert pilot.seconds(changed(asked, steps=11), known, False, read.examples) == pytest.approx(plain + 10 * 2.0)
    cell = plan_time._cell("a", [changed(asked, steps=11)], {pilot.shape(asked): known}, read.examples)
    text = "\n".join(plan_time.lines([cell], 1))
    assert f"a: {why}" in text
    assert "at least " in text
    earlier = replace(stopped, phase="retention", retention_seconds=3.0, inference_seconds=None)
    for inference, more in ((True, " and nothing of inference cost"), (False, "")):
        asking = SimpleNamespace(trial=replace(asked, inference=inference))
        found = pilot._of(asking, SimpleNamespace(row=earlier, steps=()), [5.0, 7.0, 9.0])
        assert found.incomplete.endswith(f"of that phase only what was measured until then is counted{more}")
    untrained = pilot._of(SimpleNamespace(trial=asked), SimpleNamespace(row=stopped, steps=()), [])
    assert untrained.problem == why, "no step was seen"
    validating = changed(asked, validate_every=2)
    assert pilot._of(SimpleNamespace(trial=validating), SimpleNamespace(row=stopped), [5.0, 7.0]).problem == why


def test_times_of_a_stopped_pilot_are_those_that_its_parent_saw(made, tmp_path, monkeypatch):
    now, waits = [0.0], [1.0]
    monkeypatch.setattr(pilot_clock.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(pilot_clock.environment, "waiting_by_thread", lambda process: {str(process): waits[0]})
    job, seen = trials.job(made, tmp_path), pilot_clock.Seen()
    seen.note(Event(job, Phase.START, process=7))
    for phase, seconds, step in (
        (Phase.LOAD, 2.0, 0), (Phase.TRAIN, 3.0, 0), (Phase.TRAIN, 1.0, 1), (Phase.TRAIN, 1.0, 2),
        (Phase.EVALUATE, 4.0, 0), (Phase.INFERENCE, 5.0, 0),
    ):  # fmt: skip
        now[0] += seconds
        waits[0] += 0.5
        seen.note(Event(job, phase, step, 2 * bool(step)))
    now[0] += 6.0
    result = make_result(status="timeout")
    seen.note(Event(job, Phase.INFERENCE, result=result))
    row = seen.completed(replace(result.row, train_waiting_seconds=None))
    assert (row.start_seconds, row.load_seconds, row.evaluate_seconds, row.inference_seconds) == (2.0, 3.0, 5.0, 6.0)
    assert (row.train_seconds, row.train_waiting_seconds) == (2.0, 1.0)
    assert plan_time.waited(replace(made, device="cpu", threads=1), SimpleNamespace(row=row)) == 0.5


def test_a_pilot_that_is_stopped_is_told_with_its_limit_while_others_run(made, tmp_path, monkeypatch, capsys):
    message = "stopped after 30 s (timeout_seconds)"
    row = replace(make_result().row.updated(), status=Status.TIMEOUT, phase="train", message=message, wall_seconds=None)
    monkeypatch.setattr(pilot, "_run", lambda job: (SimpleNamespace(row=row, steps=()), []))
    (cell,) = plan_time.predict([made], [], read.examples)
    said = "the pilot reached its limit in phase train (stopped after 30 s)"
    assert f"measured {made.cell}: {said}" in capsys.readouterr().err
    assert cell.problem == said


def test_a_large_base_on_a_cpu_has_a_shorter_pilot_and_a_small_one_or_a_gpu_has_not(made, monkeypatch):
    tasks = tuple(replace(task, limit=100) for task in made.tasks)
    asked = replace(changed(made, steps=500, untimed_steps=1), tasks=tasks)

    def amounts(parameters, device):
        monkeypatch.setattr(pilot.size, "parameters", lambda *_: parameters)
        short = pilot._shortened(replace(asked, device=device), 60.0)
        return short.training.steps, short.tasks[0].limit

    assert amounts(10**6, "cpu") == (8, 32)
    assert amounts(120 * 10**6, "cpu") == (3, 8)
    assert amounts(10**9, "cpu") == (3, 4)
    assert amounts(10**9, "cuda") == amounts(None, "cpu") == (8, 32)


SEARCH = """\
base: nano
tasks:
  judge: {limit: 4}
  letters: {kind: generation, train: a.jsonl, test: b.jsonl, prompt: "{{ x }}", target: "{{ y }}"}
methods: {lora: {learning_rate: search}}
seeds: 1
threads: 1
train: {steps: 4, batch_size: 2, sequence_length: 64}
"""


def test_the_time_of_a_search_over_several_tasks_follows_from_the_pilots_of_the_cells(made, tmp_path, monkeypatch):
    """Its candidates have fewer scored tasks, no inference cost and no retention, so they have other shapes."""
    (tmp_path / "s.yaml").write_text(SEARCH)
    for name in "ab":
        rows = (f'{{"x": "{name} {number}", "y": "{number}"}}\n' for number in range(4))
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    monkeypatch.chdir(tmp_path)
    loaded = suite.load("s.yaml")
    tried = learning_rate_search.candidates(loaded, "cpu")
    grid = suite.expand(loaded, "cpu")
    assert {len(trial.evaluate) for trial in tried} == {1}
    monkeypatch.setattr(pilot, "measure", lambda trials, observe: {pilot.shape(trial): KNOWN for trial in trials})
    cell, search = plan_time.predict(grid, tried, read.examples)
    assert (search.cell, search.trials, search.problem) == (plan_time.SEARCH, len(tried), None)
    each = [pilot.seconds(trial, KNOWN, True, read.examples) for trial in tried]
    assert search.total_seconds == pytest.approx(sum(each))
    assert 0 < each[0] < cell.trial_seconds
    jobs = [replace(trials.job(trial, tmp_path), key=trial.cell, predicts=True) for trial in tried]
    assert expected.Expected(SimpleNamespace(pending=jobs, workers=1)).left() == pytest.approx(sum(each))


def test_a_run_tells_predicted_beside_measured_and_uses_it_for_the_time_left(made, tmp_path):
    jobs = [replace(trials.job(replace(made, seed=n), tmp_path), key=f"k{n}") for n in range(3)]
    grid = SimpleNamespace(pending=jobs, workers=1)
    assert (expected.Expected(grid).left(), expected.Expected(grid).sentences()) == (None, ())
    pilot.store({pilot.shape(made): KNOWN})
    times = expected.Expected(grid)
    each = pilot.seconds(made, KNOWN, False, read.examples)
    assert times.left() == pytest.approx(3 * each)
    row = replace(make_result().row, key="k0", cell="a", status=Status.OK, wall_seconds=2 * each)
    passed = []
    times.beside(passed.append)(Event(jobs[0], Phase.SAVE, result=SimpleNamespace(row=row)))
    assert len(passed) == 1
    assert times.left() == pytest.approx(2 * 2 * each), "the run is half as fast as predicted"
    (text,) = times.sentences()
    assert text.startswith("1 trial took 100 % longer than predicted: ")
    assert text.endswith("(predicted by the steps that `plan --time` measured)")


def test_the_times_of_a_plan_as_data(made):
    pilot.store({})
    cells = [plan_time.CellTime("a", 3, 1.0, 3.0, 0.5), plan_time.CellTime(plan_time.SEARCH, 5, None, 7.0, None)]
    whole = plan_json.with_time({"cells": [{"cell": "a"}, {"cell": "b"}]}, cells, 2)
    assert (whole["grid_seconds"], whole["search_seconds"]) == (5.0, 7.0)
    assert whole["cells"][0]["time"]["trial_seconds"] == 1.0
    assert whole["cells"][1]["time"] is None


@pytest.mark.parametrize("option", ["--memory", "--smoke"])
def test_time_is_not_measured_beside_what_is_not_the_suites_own(option, capsys):
    assert cli.main(["plan", "quickstart", "--time", option]) == cli.BAD_INPUT
    assert "give it without --memory and --smoke" in capsys.readouterr().err


def test_predicted_and_measured_times_of_a_run_are_compared_by_cell(tmp_path):
    def plan(cell, seconds):
        return {"cell": cell, "time": {"total_seconds": seconds}}

    row = replace(make_result().row, status=Status.OK, wall_seconds=5.0)
    rows = [replace(row, key=f"{number:016}", cell=cell) for number, cell in enumerate(("a", "a", "b"))]
    rows.append(replace(row, key="f" * 16, cell="c", status=Status.TIMEOUT, wall_seconds=None))
    for one in rows:
        store.write(tmp_path, replace(make_result(), row=one))
    planned = {"search_seconds": None, "cells": [plan("a", 12.0), plan("b", 4.0), plan("c", 3.0)]}
    cells = list(time_accuracy.compared(planned, tmp_path))
    assert [(cell.name, cell.measured) for cell in cells] == [("a", 10.0), ("b", 5.0), ("c", None)]
    assert [cell.error for cell in cells[:2]] == [pytest.approx(0.2), pytest.approx(-0.2)]
    text = time_accuracy.lines(cells)[-1]
    assert "median 20%, largest +20% (a); all 2 together: 16.0 s predicted, 15.0 s measured (+7%)" in text
