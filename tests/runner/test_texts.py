"""`plan` and `run` see every text before anything runs, and say what reading found and which classes are not scored."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest

from peftbench import cli, suite
from peftbench.evaluation import outcomes
from peftbench.records import Example, Task
from peftbench.records.classes import absent
from peftbench.report.notes import data_read
from peftbench.results.store import read_trials
from peftbench.runner import prepare
from peftbench.runner.executor import local
from peftbench.runner.preflight import texts
from peftbench.tasks import lm_eval_export
from tests.support.results_factory import make_result, store

SORTED = [{"text": f"question {n}", "label": f"class {n // 20}"} for n in range(77 * 20)]
"""77 classes, sorted."""
CLASSES = [f"class {n}" for n in range(77)]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(place: Path, task: str, content: str | list[dict], name: str = "a.jsonl", more: str = "") -> None:
    text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
    (place / name).write_text(text)
    files = f"train: {name}, test: {name}"
    (place / "s.yaml").write_text(
        f"base: nano\nseeds: 1\nthreads: 1\ntasks:\n  mine: {{{files}, {task}}}\n"
        f"evaluate: {{inference: false, retention: false}}\nmethods: [base, lora]\n{more}"
    )


def choice(labels: list[str]) -> str:
    return f'kind: choice, choices: {json.dumps(labels)}, prompt: "{{{{ text }}}}", target: "{{{{ label }}}}"'


NULL = [{"text": "x", "label": "a"}, {"text": None, "label": "b"}]


@pytest.mark.parametrize(
    ("task", "content", "parts"),
    [
        (choice(["a", "b"]), NULL, ["a.jsonl, line 2 (example 2): prompt: the field text is null"]),
        (
            choice(["a", "b"]),
            '{"text": "\\ud83d", "label": "a"}\n',
            ["line 1 (example 1): prompt: character 1 is half"],
        ),
        (choice(["a", "b"]), '{"text": "\\u0000", "label": "a"}\n', ["line 1 (example 1): prompt", "NUL"]),
        (choice(["a", "b"]), '{"text": ' + "[" * 99_999, ["line 1: its JSON is nested too deeply"]),
        (choice(["a", "\\ud83d"]).replace("\\\\", "\\"), NULL, ["choices.1: given", "half"]),
        ("template: classification, labels: {a: x, b: y}, encoding: latin9000", NULL, ["encoding: given 'latin9000'"]),
        (choice(["a", "b"]).replace("text }", "range(9) | random }"), NULL, ["No filter named 'random'"]),
        (choice(["a", "b"]).replace("text }", "'x' * 10**9 }"), NULL, ["more than 10,000,000 characters"]),
        (choice(["a", "b"]).replace("{{ text }}", "{{ " + "(" * 999), NULL, ["nested too deeply"]),
    ],
)
def test_plan_and_run_refuse_what_is_no_text(place, capsys, monkeypatch, task, content, parts):
    monkeypatch.setattr(local, "run", lambda *_: pytest.fail("the grid began to run"))
    write(place, task, content)
    for command in ("plan", "run"):
        assert cli.main([command, "s.yaml"]) == 2
        message = capsys.readouterr().err
        *defaults, error = message.splitlines()  # `run` has printed the defaults before it reads the data
        assert all(line.startswith("default: ") for line in defaults)
        assert error.startswith("peftbench: ")
        for part in parts:
            assert part in message, message


def test_plan_reads_splits_that_no_trial_of_the_grid_uses(place, capsys):
    write(place, choice(["a", "b"]) + ", validation: v.jsonl", NULL[:1])
    (place / "v.jsonl").write_text(json.dumps(NULL[1]))
    assert cli.main(["plan", "s.yaml"]) == 2
    assert "v.jsonl, line 1 (example 1): prompt: the field text is null" in capsys.readouterr().err


def test_a_limit_on_a_sorted_file_scores_many_classes_and_those_missing_are_told(place, capsys):
    write(place, f"{choice(CLASSES)}, limit: 60", SORTED)
    assert cli.main(["plan", "s.yaml"]) == 0
    out = capsys.readouterr().out
    assert "note: task 'mine': limit: 60 of 1,540 test examples are drawn" in out
    trial = suite.expand(suite.load("s.yaml"), "cpu")[0]
    reading, counted = texts.columns(trial, texts.Texts())
    counts = json.loads(counted)["mine"]
    scored = sum(map(bool, counts.values()))
    assert (len(counts), sum(counts.values())) == (77, 60)
    assert 35 < scored < 55, "a draw of 60 from 77 classes has about 42 of them"
    assert f"{77 - scored} of 77 classes are not scored" in out
    assert json.loads(reading) == {"found": ["task 'mine': limit: 60 of 1,540 test examples are drawn"]}


def test_nothing_is_told_where_every_class_is_scored(place, capsys):
    write(place, choice(["a", "b"]), [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}])
    assert cli.main(["plan", "s.yaml"]) == 0
    assert "note:" not in capsys.readouterr().out
    assert absent({"a": 1, "b": 2}) is None
    write(place, choice(["a", "b", "c"]), [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}])
    assert cli.main(["plan", "s.yaml"]) == 0
    assert "none of the 2 scored examples has the answer 'c': 1 of 3 classes" in capsys.readouterr().out


def test_few_answers_of_an_exact_match_task_are_classes_and_many_are_not(place):
    task = 'kind: exact_match, prompt: "{{ text }}", target: "{{ label }}", limit: 3'
    for rows, expected in ((SORTED[:80], 4), (SORTED, None)):
        write(place, task, rows)
        trial = suite.expand(suite.load("s.yaml"), "cpu")[0]
        counted = texts.columns(trial, texts.Texts())[1]
        assert (counted and len(json.loads(counted)["mine"])) == expected


SAME = [{"text": f"question {n}", "label": "b"} for n in range(4)]
OTHER = {"text": "question", "label": "a"}
EACH = 'kind: exact_match, prompt: "{{ text }}", target: "{{ label }}"'


@pytest.mark.parametrize("task", [choice(["a", "b"]), EACH, f"{EACH}, limit: 2"])
def test_a_scored_split_with_a_single_answer_is_told_by_plan_and_run_and_under_the_table(place, capsys, task):
    write(place, task, [OTHER], "train.jsonl")
    write(place, task, SAME)
    (place / "s.yaml").write_text((place / "s.yaml").read_text().replace("train: a.jsonl", "train: train.jsonl"))
    count = 2 if "limit" in task else 4
    told = (
        f"all {count} scored examples have the answer 'b', so a model that always gives it scores 100 %: this score "
        "says nothing about a method"
    )
    assert cli.main(["plan", "s.yaml"]) == 0
    assert f"note: task 'mine': {told}" in " ".join(capsys.readouterr().out.split())
    made = prepare.prepare(suite.expand(suite.load("s.yaml"), "cpu"), place / "r", 1, "c")
    assert f"task 'mine': {told}" in made.notes
    rows = read_trials(store(place / "stored", make_result(classes_json=made.jobs[0].classes_json)))
    assert list(data_read.notes(rows)) == [f"Classes of mine: {told}."]


def test_in_smoke_mode_nothing_is_said_about_the_data_that_stands_in(place, capsys):
    write(place, choice(["a", "b"]), SAME)
    for verb in ("plan", "run"):
        assert cli.main([verb, "s.yaml", "--smoke"]) == 0
        notes = [line for line in "".join(capsys.readouterr()).splitlines() if line.startswith("note:")]
        assert [note.partition(":")[2].strip().partition(":")[0] for note in notes] == ["smoke mode"]
    rows = read_trials(place / "results" / "s-smoke")
    assert rows["classes_json"].isna().all()
    assert rows["reading_json"].isna().all()


def test_what_reading_found_is_in_jobs_and_under_the_table(place):
    write(place, 'template: classification, labels: {"1": x, "2": y, "3": z}', "text;label;\nx;1;\ny;2;\n", "a.csv")
    made = prepare.prepare(suite.expand(suite.load("s.yaml"), "cpu"), place / "r", 1, "c")
    notes = (
        "task 'mine': a.csv: delimiter: semicolon",
        "task 'mine': a.csv: 1 empty column without a name left out",
        "task 'mine': none of the 2 scored examples has the answer 'z': 1 of 3 classes are not scored",
    )
    assert made.notes == notes
    given = {"reading_json": made.jobs[0].reading_json, "classes_json": made.jobs[0].classes_json}
    rows = read_trials(store(place / "stored", make_result(**given)))
    assert json.loads(rows["reading_json"][0]) == {"found": list(notes[:2])}
    assert list(data_read.notes(rows)) == [
        "Classes of mine: none of the 2 scored examples has the answer 'z': 1 of 3 classes are not scored.",
        f"Data as read: {'; '.join(notes[:2])}.",
    ]
    assert list(data_read.notes(pandas.DataFrame({"reading_json": [None], "classes_json": [None]}))) == []


def test_an_answer_that_equals_one_of_several_right_ones_is_right():
    task = Task("m", "exact_match")
    examples = [Example("p", "one", (), ("one", "1"))] * 3
    answers = ["1", "one", "two"]
    samples = [{"filtered_resps": [text], "exact_match": float(text != "two")} for text in answers]
    rows, _ = outcomes.match(task, examples, samples, None)
    assert [row.outcome for row in rows] == [1.0, 1.0, 0.0]
    numbers = Task("m", "exact_match", answer_pattern="number")
    samples = [{"filtered_resps": [f"it is {text}"], "exact_match": 0.0} for text in ("7", "8", "9")]
    rows, _ = outcomes.match(numbers, [Example("p", "7", (), ("7", "8"))] * 3, samples, None)
    assert [row.outcome for row in rows] == [1.0, 1.0, 0.0]
    built = lm_eval_export.build(task, examples)
    assert built.config.doc_to_target == "references"
    assert built.process_results(built.eval_docs[0], ["1"]) == {"exact_match": 1.0}
    assert built.process_results(built.eval_docs[0], ["2"]) == {"exact_match": 0.0}
    plain = lm_eval_export.config(task, [Example("p", "one", (), ("one",))])
    assert plain["doc_to_target"] == "target"


@pytest.mark.parametrize(
    ("task", "content", "message"),
    [
        (
            choice(["a", "b " * 200]),
            [{"text": "x", "label": "a"}],
            "example 0: the choice 'b b b b b b b b b b b b b b b b b b b...' has",
        ),
        (
            'kind: exact_match, answer_pattern: number, prompt: "{{ text }}", target: "{{ label }}"',
            [{"text": "x", "label": "3"}, {"text": "y", "label": "none"}],
            "answer_pattern: given 'number'; it finds no answer in the target of test example 1: 'none'",
        ),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_what_a_trial_would_refuse_of_its_answers_is_refused_before_any_trial(
    place, capsys, task, content, message, command
):
    write(place, task, content)
    assert cli.main([command, "s.yaml"]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert not (place / "results").exists()
