"""peftbench init --time: a suite that fits a time, or the smallest one; and how long measuring takes for that."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from peftbench import suite
from peftbench.commands.first_suite import given, timing
from peftbench.commands.first_suite.draft import Draft, MethodLine, text
from peftbench.records import Status
from peftbench.runner import pilot
from peftbench.runner.pilot import NO_TIME, Measured
from peftbench.runner.preflight.texts import Texts
from tests.support.results_factory import make_result

ROWS = [{"text": f"the {a} {n}", "label": b} for n in range(20) for a, b in (("sky", "blue"), ("rose", "red"))] * 10
SUITE = """
base: nano
threads: 2 # on any machine: waiting is a share of the threads' time
tasks: { judged: { kind: choice, train: x.jsonl, test: x.jsonl, prompt: "{{ text }}", target: "{{ label }}",
  choices: [blue, red] } }
train: { steps: 400 }
methods: [base, full, lora, adapter]
"""
NAMES = ("base", "full", "lora", "adapter")
DRAFT = Draft("d", "nano", "t", {"kind": "choice", "limit": 400}, tuple(MethodLine(name) for name in NAMES), steps=400)
PLAIN = Measured(fixed_seconds=1.0, step_seconds=0.1, scoring_seconds=0.0)
QUIET = "or measure again when nothing else runs on this machine"
UNMEASURED = Measured(problem=NO_TIME)


@pytest.fixture
def trials(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "s.yaml").write_text(SUITE)
    return list({trial.cell: trial for trial in suite.expand(suite.load(tmp_path / "s.yaml"), "cpu")}.values())


@pytest.fixture
def timed(trials, monkeypatch):
    """Fit a draft to a time, with pilots that took what is given: by default for every method the same."""

    def call(limit, waited=0.0, status="ok", fixed=given.NOTHING_GIVEN, **found):
        plain = found.pop("plain", PLAIN)

        def measure(trials, observe, within, begin):
            begin()
            assert within == pytest.approx(0.2 * limit)
            for trial in trials:
                observe(trial, make_result(status=status, train_seconds=1.0, train_waiting_seconds=waited))
            return {pilot.shape(trial): found.get(trial.method, plain) for trial in trials}

        monkeypatch.setattr(pilot, "measure", measure)
        seeds = fixed.seeds or 3
        draft = replace(DRAFT, given=fixed, seeds=seeds)
        made = timing.fit(draft, trials, limit, Texts().examples, 400)
        return made.draft, list(made.said), list(made.unknown)

    return call


def test_too_few_steps_are_said_with_the_time_that_all_would_take(timed):
    made, lines, unknown = timed(100)
    assert (made.steps, made.search) == (100, False)
    assert lines[0] == "about 100.0 s of 100.0 s, 10.0 s of it set-up and scoring"
    assert lines[1] == "100 steps instead of 400; with all, --time would have to be about 6 min 10 s"
    assert lines[-1].startswith("learning rates are untuned defaults: a search would take about ")
    assert unknown == ["whether 100 steps are enough to tell methods apart, or for a method to learn at all"]


def test_scoring_that_takes_most_of_the_time_becomes_shorter(timed):
    characters = sum(len(row["text"]) + len("bluered") for row in ROWS)
    slow = Measured(fixed_seconds=1.0, step_seconds=0.1, scoring_seconds=0.0, seconds_per_character=20 / characters)
    made, lines, _ = timed(200, plain=slow)
    assert made.block["limit"] == 100
    assert "100 test examples are scored (limit) instead of 400, so that there is time to train" in lines
    assert made.steps > 100


def test_the_method_that_takes_most_of_the_time_is_named(timed):
    _, lines, _ = timed(100, lora=Measured(fixed_seconds=1.0, step_seconds=0.5, scoring_seconds=0.0))
    (line,) = [line for line in lines if "without its line under methods" in line]
    assert line.startswith("lora r=8 fp32 takes about ")
    assert line.endswith("155 steps would fit")


def test_of_too_little_time_seeds_go_first(timed):
    made, lines, unknown = timed(20, waited=0.5)
    assert (made.seeds, made.steps, made.warning) == (2, 21, "")
    assert [line.name for line in made.methods] == list(NAMES)
    assert "2 seeds instead of 3: the least for `answer`; there was no time for 3" in lines
    assert made.comments["seeds"] == "the least for `answer`; there was no time for 3"
    assert any("this machine is busy: threads waited for a CPU for 25 % of the time" in line for line in unknown)


def test_then_go_the_methods_that_take_most_but_not_lora(timed):
    slow = Measured(fixed_seconds=9.0, step_seconds=0.1, scoring_seconds=0.0)
    made, lines, _ = timed(20, adapter=slow, lora=replace(slow, fixed_seconds=3.0))
    assert [line.name for line in made.methods] == ["base", "full", "lora"]
    assert made.left_out == (("adapter", "as it would take about 22.0 s of 20.0 s with 20 steps"),)
    assert "adapter" not in " ".join(lines), "it is said once, of the draft"
    assert (made.seeds, made.warning) == (2, "")


def test_then_the_second_seed(timed):
    made, lines, _ = timed(8)
    assert (made.seeds, [line.name for line in made.methods]) == (1, ["base", "full", "lora"])
    assert "1 seed instead of 3: too few for `answer`, which needs 2; there was no time for more" in lines
    assert made.warning == ""
    assert made.steps == 25


def test_what_cannot_fit_is_written_as_the_smallest_suite_and_says_so_in_its_first_line(timed):
    made, lines, _ = timed(5)
    least = "takes at least about 7.00 s, more than --time 5.00 s; this is the least that is worth it"
    assert (made.seeds, made.steps, lines[0]) == (1, 20, least)
    assert text(made).startswith(f"# It {least}.\n")


def test_what_the_user_has_fixed_stays(timed):
    names = given.read("full,lora,adapter", "3", "400")
    made, lines, _ = timed(5, fixed=names)
    assert (made.seeds, made.block["limit"]) == (3, 400)
    assert [line.name for line in made.methods] == list(NAMES)
    assert lines[0].startswith("takes at least about 28.0 s, more than --time 5.00 s")
    assert lines[1].startswith("20 steps instead of 400; with all, --time would have to be about ")
    assert lines[2].startswith("learning rates are untuned"), "without a method not even set-up fits"
    assert made.comments["steps"] == "the fewest that are worth it, instead of 400"


def test_methods_that_there_was_no_time_to_measure_take_as_long_as_the_slowest(timed):
    slow = Measured(fixed_seconds=1.0, step_seconds=0.5, scoring_seconds=0.0)
    made, _, unknown = timed(100, full=slow, adapter=UNMEASURED)
    assert made.steps == timed(100, full=slow, adapter=slow)[0].steps
    assert (
        "the time of adapter r=64 fp32: there was no time to measure it, so the time of the slowest measured "
        "cell is used; `plan --time` measures all"
    ) in unknown


def test_if_nothing_was_measured_the_smallest_suite_is_written(timed):
    made, lines, unknown = timed(5, plain=UNMEASURED)
    assert made.left_out == (("adapter", "as there was no time to measure any method"),)
    assert (made.seeds, made.steps, [line.name for line in made.methods]) == (1, 20, ["base", "full", "lora"])
    why = "no method could be measured in 1.00 s, so this is the smallest suite"
    assert text(made).startswith(f"# How long it takes is not known: {why}.\n")
    assert lines == [
        f"How long it takes is not known: {why}",
        f"what to do: give a larger --time or fewer --methods or a smaller --limit, {QUIET}; one seed is too few for "
        "`answer`, which needs 2",
    ]
    assert (unknown, made.block["limit"]) == ([], 100)
    kept, said, _ = timed(5, plain=UNMEASURED, fixed=given.read("full,lora,adapter", "2", None))
    assert (kept.seeds, [line.name for line in kept.methods]) == (2, list(NAMES))
    assert said[-1] == f"what to do: give a larger --time or a smaller --limit, {QUIET}"


def test_if_every_method_failed_nothing_is_said_of_too_little_time(timed):
    failed = Measured(problem="error in phase load: no")
    made, _, unknown = timed(5, plain=failed, base=UNMEASURED)
    assert (made.warning, made.seeds, made.steps) == ("", 3, 400)
    assert "the time of lora r=8 fp32: error in phase load: no" in unknown


@pytest.mark.parametrize(
    ("limit", "said"), [(100, "20.0 s (20 % of --time)"), (36_000, "4 min 00 s, at most 60.0 s of it for one cell")]
)
def test_it_is_said_before_how_long_measuring_takes(timed, capsys, limit, said):
    _, _, unknown = timed(limit, waited=0.5)
    assert any(
        "this machine is busy: threads waited for a CPU for 25 % of the time of the m" in line for line in unknown
    )
    err = " ".join(capsys.readouterr().err.split())
    assert f"measuring a few steps and scored examples of 4 cells: at most {said}" in err


def test_pilots_that_were_stopped_give_at_least_their_time(timed, monkeypatch):
    stopped = Measured(problem="the pilot reached its limit in phase evaluate (stopped after 60 s)")
    made, lines, unknown = timed(480, status="timeout", plain=stopped)
    assert (made.steps, made.seeds, lines[-1][:10]) == (20, 1, "what to do")
    assert "the time of full fp32: the pilot reached its limit in phase evaluate (stopped after 60 s)" in unknown
    assert unknown[-1] == (
        "whether any suite with these cells fits 8 min 00 s: the 10 trials of the cells whose pilots were stopped take "
        "at least 10 min 00 s"
    )
    _, _, unknown = timed(3600, status="timeout", plain=stopped)
    assert "whether 60 min 00 s are enough, as the time of 4 cells is not known" in unknown
    monkeypatch.setattr(pilot, "shape", lambda trial: "base" if trial.method == "base" else "shared")
    _, _, unknown = timed(300, status="timeout", plain=stopped)
    assert unknown[-1] == (
        "whether any suite with these cells fits 5 min 00 s: the 10 trials of the cells whose pilots were stopped take "
        "at least 5 min 30 s"
    ), "30 s is their limit"


def test_a_pilot_that_was_stopped_after_its_steps_keeps_them_and_one_after_its_scoring_all(timed):
    why = "the pilot reached its limit in phase evaluate (stopped after 60 s)"
    slow = Measured(step_seconds=0.5, problem=why)
    made, _, unknown = timed(100, status="timeout", lora=slow)
    assert made.steps == timed(100, lora=replace(PLAIN, step_seconds=0.5))[0].steps
    assert (
        "the scoring time of lora r=8 fp32: its pilot was stopped after the steps, so the scoring time of the slowest "
        "measured cell is used"
    ) in unknown
    made, said, unknown = timed(100, status="timeout", lora=replace(PLAIN, incomplete="late"), full=UNMEASURED)
    assert made.steps == timed(100)[0].steps
    assert said[0].startswith("at least about 100.0 s of 100.0 s, ")
    assert [line for line in unknown if "late" in line] == ["all of the time of lora r=8 fp32: late"]


@pytest.fixture
def clock(monkeypatch):
    """A clock that pilots move on: each takes what is given, or is stopped when its time is over."""
    now = [100.0]
    monkeypatch.setattr(pilot.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(pilot.local, "load_libraries", lambda: None)
    ran = []

    def install(seconds):
        def run(job):
            limit = job.trial.timeout_seconds
            took = seconds[job.trial.method]
            ran.append((job.trial.method, limit))
            now[0] += min(took, limit)
            over = {"status": Status.TIMEOUT, "message": "stopped"} if took > limit else {}
            return make_result(job.trial.cell, wall_seconds=min(took, limit), **over), []

        monkeypatch.setattr(pilot, "_run", run)
        return ran, now

    return install


def test_measuring_never_takes_more_than_its_share(trials, clock):
    ran, now = clock({"base": 2.0, "full": 8.0, "lora": 30.0, "adapter": 1.0})
    told = []
    found = pilot.measure(trials, lambda trial, result: told.append((trial.method, result.row.status)), 20.0)
    assert now[0] - 100.0 <= 20.0
    assert ran == [("base", 20.0), ("full", 18.0), ("lora", 10.0)], "nothing was left for the last"
    problems = {trial.method: found[pilot.shape(trial)].problem for trial in trials}
    assert problems == {"base": None, "full": None, "lora": NO_TIME, "adapter": NO_TIME}
    assert told == [("base", "ok"), ("full", "ok"), ("lora", "timeout")]
    pilot.store(found)
    assert len(pilot.stored()) == 2, "what was not measured is not kept"


def test_preparing_counts_and_loading_libraries_does_not(trials, clock, monkeypatch):
    ran, now = clock({"base": 2.0, "full": 30.0, "lora": 1.0, "adapter": 1.0})
    prepared = pilot.prepare.prepare

    def slow(*given):
        now[0] += 4.0
        return prepared(*given)

    monkeypatch.setattr(pilot.prepare, "prepare", slow)
    monkeypatch.setattr(pilot.local, "load_libraries", lambda: now.__setitem__(0, 200.0))
    pilot.measure(trials, lambda *_: None, 20.0)
    assert ran == [("base", 16.0), ("full", 10.0)]
    assert now[0] - 200.0 <= 20.0


def test_a_pilot_that_would_hardly_end_in_what_is_left_is_not_begun(trials, clock):
    ran, _ = clock({"base": 8.0, "full": 8.0, "lora": 8.0, "adapter": 8.0})
    pilot.measure(trials, lambda *_: None, 20.0)
    assert [name for name, _ in ran] == ["base", "full"]


def test_without_a_share_pilots_have_their_own_limit(trials, clock):
    ran, _ = clock({"base": 90.0, "full": 8.0, "lora": 8.0, "adapter": 8.0})
    found = pilot.measure(trials, lambda *_: None)
    assert [limit for _, limit in ran] == [pilot.LONGEST] * 4
    assert found[pilot.shape(trials[0])].problem != NO_TIME


def test_after_a_pilot_at_its_limit_the_others_have_what_is_left(trials, clock):
    ran, now = clock({"base": 90.0, "full": 8.0, "lora": 8.0, "adapter": 8.0})
    found = pilot.measure(trials, lambda *_: None, 80.0)
    assert ran == [("base", 60.0), ("full", 20.0), ("lora", 12.0)]
    assert now[0] - 100.0 <= 80.0
    assert found[pilot.shape(trials[0])].problem != NO_TIME, "it is slow, and that is said"
    assert found[pilot.shape(trials[3])].problem == NO_TIME


def test_cells_without_time_to_be_measured_are_named_together():
    assert [text.partition(", so ")[0] for text in timing._guessed(["a", "b"])] == [
        "the time of a and b: there was no time to measure them"
    ]
    assert [text.partition(" stopped")[0] for text in timing._unscored(["a", "b"])] == [
        "the scoring time of a and b: their pilots were"
    ]
