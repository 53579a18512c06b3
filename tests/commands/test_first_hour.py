"""What plan and run say to someone who knows no option: how long it takes, which defaults, which folder."""

from __future__ import annotations

import io
from dataclasses import replace
from types import SimpleNamespace

import pytest

from peftbench import cli
from peftbench.commands import default_settings, expected, progress
from peftbench.models import find
from peftbench.records import Base, Phase
from peftbench.runner import pilot, prepare
from peftbench.runner.executor import Event
from peftbench.runner.pilot import Measured
from peftbench.suite import base_defaults, expand, load
from peftbench.suite.select import FIELDS
from tests.support import trials
from tests.support.results_factory import make_result

KNOWN = Measured(fixed_seconds=2.0, step_seconds=0.5, scoring_seconds=1.0)
PLAN = "peftbench plan s.yaml --time"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def grid(tmp_path):
    """Three cells of three seeds each, in the order in which they run, beside the untuned base."""
    made = trials.trial("nano", tmp_path)
    base = replace(made, method="base", cell="base", training=None, seed=None)
    each = [replace(made, cell=cell, seed=seed) for seed in range(3) for cell in "abc"]
    jobs = [trials.job(trial, tmp_path) for trial in (base, *each)]
    keyed = [replace(job, key=f"{n:016}", predicts=n in (1, 2, 3)) for n, job in enumerate(jobs)]
    return SimpleNamespace(pending=keyed, workers=1)


def ended(job, seconds, plan=0.0, status="ok"):
    row = make_result(job.trial.cell, status=status, wall_seconds=seconds, plan_seconds=plan).row
    return Event(job, Phase.SAVE, result=SimpleNamespace(row=row, scores=()))


def test_without_pilots_the_time_is_said_as_soon_as_trials_of_two_cells_have_ended(grid):
    times = expected.Expected(grid)
    base, a, b, c, *later = grid.pending
    assert (times.left(), times.news()) == (None, "")
    assert times.before(PLAN) == [
        "how long it takes is not known yet: an estimate follows after trials of two cells have ended; to",
        "    have an estimate before a run:",
        f"    {PLAN}",
    ]
    times.see(ended(base, 1.0))
    times.see(ended(a, 12.0, plan=2.0))
    assert (times.left(), times.news()) == (None, ""), "one method says nothing of another"
    times.see(ended(b, 22.0, plan=2.0))
    assert times.left() == pytest.approx(2 * 10 + 2 * 20 + 3 * 15 + 2), "c as the mean of a and b, and its prediction"
    assert times.news() == "about 107.0 s left: a first estimate, as trials of 2 of 3 cells have ended"
    assert times.news() == "", "it is said once"
    times.see(ended(c, 5.0, plan=2.0, status="diverged"))
    assert times.left() == pytest.approx(2 * 10 + 2 * 20 + 2 * 3)
    assert times.news() == "about 66.0 s left: a trial of every cell has ended"
    for job in later:
        times.see(ended(job, 10.0))
    assert (times.left(), times.news(), times.sentences()) == (0.0, "", ())


def test_lines_say_the_estimate_once(grid):
    out, times = io.StringIO(), expected.Expected(grid)
    lines = times.beside(progress.Lines(len(grid.pending), out, None, times))
    for job in grid.pending:
        lines(ended(job, 10.0))
    assert [line for line in out.getvalue().splitlines() if "left" in line] == [
        "about 70.0 s left: a first estimate, as trials of 2 of 3 cells have ended",
        "about 60.0 s left: a trial of every cell has ended",
    ]


def test_the_time_left_is_said_again_when_minutes_have_passed_or_trials_are_much_slower_than_predicted(
    grid, monkeypatch
):
    now = [0.0]
    monkeypatch.setattr(expected.time, "monotonic", lambda: now[0])
    times = expected.Expected(grid)
    *first, last = grid.pending
    for job in first[:4]:
        times.see(ended(job, 10.0))
        times.news()
    now[0] += expected._EVERY - 1
    assert times.news() == ""
    now[0] += 1
    assert times.news() == "about 60.0 s left", "after some minutes"
    assert times.news() == ""
    pilot.store({pilot.shape(job.trial): KNOWN for job in grid.pending}, "init --time")
    times = expected.Expected(grid)
    predicted = times.left() / len(grid.pending)
    for job in first[:2]:
        made = ended(job, 4 * predicted)
        busy = replace(made.result.row, train_waiting_seconds=0.4, train_seconds=1.0, threads=1, device="cpu")
        times.see(Event(job, Phase.SAVE, result=SimpleNamespace(row=busy, scores=())))
    said = times.news()
    assert said.endswith(" times as long as predicted (their threads waited for a CPU in up to 40 % of the time)")
    assert " left: trials take " in said
    assert times.news() == "", "it is said once, until minutes have passed"
    now[0] += expected._EVERY
    assert times.news() == said
    for job in (*first, last):
        times.see(ended(job, 1.0))
    now[0] += expected._EVERY
    assert times.news() == "", "nothing is left"


def test_a_round_of_seeds_begins_with_the_time_left(grid):
    out, times = io.StringIO(), expected.Expected(grid)
    rounds = SimpleNamespace(
        begins=lambda event: f"seed {event.job.trial.seed}" if event.job.trial.cell == "a" else "",
        ends=lambda event: "",
    )
    lines = times.beside(progress.Lines(len(grid.pending), out, rounds, times))
    for job in grid.pending:
        lines(Event(job, Phase.START))
        lines(ended(job, 10.0))
    said = [line for line in out.getvalue().splitlines() if line.startswith("seed")]
    assert said[0] == "seed 0"
    assert "seed 1, about 60.0 s left" in said


def test_nothing_is_said_of_a_time_where_nothing_is_to_run(grid):
    assert expected.Expected(SimpleNamespace(pending=[], workers=1)).before(PLAN) == []
    refused = [replace(job, trial=replace(job.trial, unsupported="no")) for job in grid.pending]
    times = expected.Expected(SimpleNamespace(pending=refused, workers=1))
    assert (times.before(PLAN), times.left(), times.news()) == ([], None, "")


def test_the_command_to_copy_is_in_one_line_and_no_estimate_is_promised_where_none_can_follow(grid):
    command = f"{PLAN} --only 'cell=lora r=8 fp32' {'--set train.steps=20 ' * 5}"
    for pending in (grid.pending[:2], grid.pending[1:3]):
        lines = expected.Expected(SimpleNamespace(pending=pending, workers=1)).before(command)
        assert lines == ["how long it takes is not known yet; to have an estimate before a run:", f"    {command}"]
    assert "follows" in expected.Expected(SimpleNamespace(pending=grid.pending[1:4], workers=1)).before(command)[0]


def test_trials_that_were_stopped_or_killed_count_with_the_time_until_then(grid, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(expected.time, "monotonic", lambda: now[0])
    times = expected.Expected(grid)
    _, a, b, c, *_ = grid.pending
    for job, seconds, status in ((a, 10.0, "ok"), (b, 600.0, "timeout")):
        times.see(Event(job, Phase.START))
        now[0] += 1.0
        times.see(Event(job, Phase.TRAIN, 1, 2))
        now[0] += seconds - 1.0
        times.see(ended(job, 10.0 if status == "ok" else None, status=status))
    assert times.left() == pytest.approx(10 + 2 * 10 + 2 * 600 + 3 * 10), "the base and c as a, which ended ok"
    times.see(ended(c, None, status="killed"))
    assert times.news().endswith("trials of 2 of 3 cells have ended"), "it was not seen to begin"


def test_what_a_stopped_trial_did_not_come_to_is_unknown_and_not_0(grid):
    times = expected.Expected(grid)
    base, a, b, *_ = grid.pending
    times.see(ended(base, 0.0))
    times.see(ended(a, 40.0, plan=30.0))
    times.see(ended(b, 10.0, plan=None, status="timeout"))
    assert times.left() == pytest.approx(2 * 10 + 2 * 10 + 3 * 10 + 30), "c predicts as long as a"
    assert times.news().startswith("about ")


def test_time_that_only_first_trials_take_and_that_was_not_seen_is_left_out_with_a_word(grid):
    *_, a, b, _ = grid.pending
    resumed = SimpleNamespace(pending=[a, b, *grid.pending[3:7]], workers=1)  # c, which predicts, has not begun
    times = expected.Expected(resumed)
    times.see(ended(a, 10.0))
    times.see(ended(b, 10.0))
    assert times.news().startswith("at least about 40.0 s left: a first estimate")
    times.see(ended(grid.pending[3], 12.0, plan=2.0))
    assert times.time_left().startswith("about ")


def test_the_time_left_by_a_pilot_that_was_stopped_is_a_least_time(grid):
    job = grid.pending[1]
    stopped = replace(KNOWN, incomplete="its pilot was stopped")
    pilot.store({pilot.shape(job.trial): stopped}, "init --time")
    times = expected.Expected(SimpleNamespace(pending=[job], workers=1))
    assert times.before(PLAN)[0].startswith("at least about ")
    assert times.time_left().startswith("at least about ")


def test_what_fails_at_once_is_no_measure_of_cells_that_have_not_run(grid):
    times = expected.Expected(grid)
    _, a, b, *_ = grid.pending
    times.see(ended(a, 1.0, status="error"))
    times.see(ended(b, 21.0))
    assert times.left() == pytest.approx(21 + 2 * 1 + 2 * 21 + 3 * 21)
    times = expected.Expected(grid)
    stopped = replace(b, trial=replace(b.trial, timeout_seconds=600.0))
    times.see(ended(a, 1.0, status="error"))
    times.see(ended(stopped, None, status="timeout"))
    assert times.left() == pytest.approx(2 * 1 + 2 * 600 + 4 * 300.5), "none ended ok"


@pytest.mark.parametrize(
    ("by", "named"),
    [("init --time", "`init --time`"), ("plan --time", "`plan --time`"), ("", "an earlier command")],
)
def test_a_prediction_names_the_command_that_measured(grid, by, named):
    pilot.store({pilot.shape(job.trial): KNOWN for job in grid.pending}, by)
    times = expected.Expected(grid)
    assert " ".join(times.before(PLAN)).endswith(f", by the steps that {named} measured on this machine")
    times.see(ended(grid.pending[0], 10.0))
    (text,) = times.sentences()
    assert text.endswith(f"(predicted by the steps that {named} measured)")


@pytest.mark.parametrize(
    ("factors", "said"),
    [
        ((1.12, 1.12, 1.12), "3 trials took 12 % longer than predicted: "),
        ((0.5, 1.0, 1.0), "3 trials took 17 % less than predicted: "),
        ((1.0, 1.0, 1.0), "3 trials took as long as predicted: "),
        ((1.002, 1.0, 1.0), "3 trials took as long as predicted: "),
    ],
)
def test_the_error_of_a_prediction_is_said_in_words(grid, factors, said):
    pilot.store({pilot.shape(job.trial): KNOWN for job in grid.pending})
    times = expected.Expected(grid)
    for job, factor in zip(grid.pending[4:], factors, strict=False):
        times.see(ended(job, factor * times._seconds[job.key]))
    (text,) = times.sentences()
    assert text.startswith(said)
    assert (" instead of " in text) == (" as long as " not in said)
    assert ("the largest that of a (50 % less) (predicted" in text) == (factors[0] == 0.5)
    assert "-" not in text.partition("(predicted")[0]


SUITE = "base: nano\ntasks: [judge]\nseeds: 2\nmethods: {base: , lora: , full: {learning_rate: 1e-3}}\n"


def _said(tmp_path, text):
    (tmp_path / "s.yaml").write_text(text)
    loaded = load(tmp_path / "s.yaml")
    return default_settings.default_lines(loaded, expand(loaded, "cpu"))


def test_plan_names_the_defaults_of_the_built_in_base(tmp_path, monkeypatch, capsys):
    assert _said(tmp_path, SUITE) == [
        "learning_rate: 0.005 for lora r=8 fp32 (the methods' own, found for nano)",
        "steps 100, batch_size 16, micro_batch_size 16, sequence_length 128: the general defaults",
    ]
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", "s.yaml"]) == 0
    assert "default: steps 100, batch_size 16, " in capsys.readouterr().out


def test_plan_tells_the_time_that_earlier_commands_measured(tmp_path, capsys):
    (tmp_path / "s.yaml").write_text(SUITE)
    cells = {trial.cell: trial for trial in expand(load(tmp_path / "s.yaml"), "cpu")}
    shapes = {trial.method: pilot.shape(trial) for trial in cells.values()}

    def last(*argv):
        assert cli.main(["plan", str(tmp_path / "s.yaml"), *argv]) == 0
        return capsys.readouterr().out.splitlines()[-1]

    unknown = "time: not known; --time measures a few steps of each cell and predicts it"
    assert last() == unknown
    pilot.store({shapes["base"]: KNOWN, shapes["lora"]: KNOWN}, "init --time")
    assert last() == unknown, "of one cell it is not known"
    assert last("--only", "method=base,lora").startswith("time: about 109.0 s (")
    pilot.store({shapes["full"]: replace(KNOWN, incomplete="late")}, "plan --time")
    whole = last()
    assert whole == "time: at least about 3 min 35 s (measured by `init --time` and `plan --time` on this machine)"
    assert "time: " not in last("--smoke")


def test_plan_does_not_advise_the_pilot_that_has_just_failed(tmp_path, capsys, monkeypatch):
    (tmp_path / "s.yaml").write_text(SUITE)
    shapes = {trial.method: pilot.shape(trial) for trial in expand(load(tmp_path / "s.yaml"), "cpu")}

    def said(*argv):
        assert cli.main(["plan", str(tmp_path / "s.yaml"), *argv]) == 0
        return " ".join(capsys.readouterr().out.partition("time: ")[2].split())

    failed = Measured(problem="the pilot reached its limit in phase train (stopped after 60 s)")
    pilot.store({shapes["base"]: KNOWN, shapes["lora"]: KNOWN, shapes["full"]: failed})
    known = "at least about 109.0 s (measured by `plan --time` on this machine)"
    assert said() == f"{known}; not known: full fp32 ({failed.problem})"
    assert said("--only", "method=full") == f"not known: full fp32 ({failed.problem})"
    searched = said("--set", "train.learning_rate=search", "--set", "methods.full={}", "--only", "method=full")
    assert searched.startswith("not known: full fp32 (the pilot reached its limit in phase train (stopped after 60 s))")
    monkeypatch.setattr("peftbench.commands.plan_time.known", None)
    assert cli.main(["plan", str(tmp_path / "s.yaml"), "--json"]) == 0, "which has no such line"


def test_plan_wraps_its_notes(tmp_path, monkeypatch, capsys):
    (tmp_path / "s.yaml").write_text(SUITE)
    monkeypatch.setattr("peftbench.runner.prepare.check", lambda *_: ("twelve more words " * 12,))
    assert cli.main(["plan", str(tmp_path / "s.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sum("twelve" in line for line in lines) == 3
    assert max(map(len, lines)) <= 100


def test_settings_that_the_suite_gives_are_no_defaults(tmp_path):
    train = "train: {epochs: 1, batch_size: 8, sequence_length: 64, learning_rate: 1e-3}\n"
    assert _said(tmp_path, SUITE + train) == []
    assert _said(tmp_path, SUITE + "train: {steps: 50, batch_size: 8, learning_rate: 1e-3}\n") == [
        "sequence_length 128: the general default"
    ]


def test_a_folder_that_could_be_a_hub_id_is_said_to_be_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    (note,) = find.folder_notes([Base("org/model"), Base("org/model"), Base("nano")])
    assert note == f"base 'org/model' is read from the folder {tmp_path}/org/model, not from the hub"
    others = [Base(str(tmp_path / "org")), Base("./org"), Base("other/model"), Base("llama-7b", random_weights=True)]
    assert find.folder_notes(others) == ()


def test_plan_and_run_say_that_a_base_is_a_folder(tmp_path, tiny, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "model").symlink_to(tiny)
    (tmp_path / "s.yaml").write_text(
        "base: org/model\ntasks: [judge]\nseeds: 1\ntrain: {steps: 2, sequence_length: 32}\nmethods: [lora]\n"
    )
    assert cli.main(["plan", "s.yaml"]) == 0
    said = "base 'org/model' is read from the folder "
    assert f"note: {said}" in " ".join(capsys.readouterr().out.split())
    trials_ = expand(base_defaults.resolve(load("s.yaml")), "cpu")
    assert any(note.startswith(said) for note in prepare.prepare(trials_, tmp_path / "r", 1, "x").notes)


@pytest.mark.parametrize("command", ["run", "plan"])
def test_help_names_every_field_of_only(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split("--only FIELD=VALUES")[2].split("--seeds")[0].split())
    for field in FIELDS:
        assert field in text
