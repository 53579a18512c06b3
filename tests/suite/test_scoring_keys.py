"""What a suite may say about how its tasks are scored."""

from __future__ import annotations

import dataclasses
import json

import pytest

from peftbench import suite
from peftbench.errors import UserError
from peftbench.suite import trial_key

SUITE = """base: nano
methods: [base]
tasks:
  mine:
    kind: exact_match
    train: train.csv
    test: test.csv
    prompt: "{{ q }}"
    target: "{{ a }}"
"""


def loaded(folder, text):
    (folder / "x.yaml").write_text(text)
    return suite.load(folder / "x.yaml")


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ("answer_pattern: gsmk", ["x.yaml:10: tasks.mine.answer_pattern: given 'gsmk'; ", "0 groups", "gsm8k, number"]),
        ("answer_pattern: '(a'", ["not a regular expression"]),
        ("stop: []", ["tasks.mine.stop: given []"]),
        ("stop: ['']", ["tasks.mine.stop: an empty stop string would stop at once"]),
        ('stop: "x"', ["tasks.mine.stop: given 'x' (text); allowed: a list of text"]),
        ("num_fewshot: -1", ["tasks.mine.num_fewshot: given -1", "at least 0"]),
        ("metric: acuracy", ["unknown metric 'acuracy'; allowed: exact_match", "outcome per example"]),
        ("lm_eval: false", ["tasks.mine.lm_eval: given false"]),
        ("lm_eval: 3", ["tasks.mine.lm_eval: given 3", "a YAML file"]),
        ("lm_eval: ./no.yaml", ["tasks.mine.lm_eval: given './no.yaml'; there is no such file"]),
        ("lm_eval: hellaswag", ["tasks.mine.prompt: lm-eval defines this task; only lm_eval, num_fewshot"]),
    ],
)
def test_a_wrong_scoring_setting_is_refused(tmp_path, more, parts):
    with pytest.raises(UserError) as error:
        loaded(tmp_path, f"{SUITE}    {more}\n")
    for part in parts:
        assert part in str(error.value), error.value


@pytest.mark.parametrize(
    ("kind", "more", "part"),
    [
        (
            "generation",
            "answer_pattern: gsm8k",
            "only an exact_match task parses answers; this one's kind is generation",
        ),
        ("choice\n    choices: [a, b]", "stop: [x]", "only exact_match and generation decode text"),
        ("choice\n    choices: [a, b]", "metric: acc_norm", "allowed: accuracy, accuracy_norm"),
    ],
)
def test_a_setting_of_another_kind_of_task_is_refused(tmp_path, kind, more, part):
    with pytest.raises(UserError, match=part):
        loaded(tmp_path, f"{SUITE.replace('exact_match', kind)}    {more}\n")


def test_shots_need_a_train_file(tmp_path):
    text = SUITE.replace("    train: train.csv\n", "") + "    num_fewshot: 2\n"
    with pytest.raises(UserError, match=r"tasks\.mine\.num_fewshot: the task has no train split"):
        loaded(tmp_path, text)


def test_the_settings_of_scoring_reach_the_task_and_defaults_leave_it_as_it_was(tmp_path):
    (plain,) = loaded(tmp_path, SUITE).tasks
    more = "    answer_pattern: gsm8k\n    stop: ['Q:', \"\\n\\n\"]\n    num_fewshot: 2\n    metric: exact_match\n"
    (task,) = loaded(tmp_path, SUITE + more).tasks
    assert (task.answer_pattern, task.stop, task.num_fewshot, task.metric) == ("gsm8k", ("Q:", "\n\n"), 2, None)
    (same,) = loaded(tmp_path, SUITE + '    stop: ["\\n"]\n    num_fewshot: 0\n    metric: exact_match\n').tasks
    assert plain.stop is None, "it follows from the targets"
    assert same == dataclasses.replace(plain, stop=("\n",))


def test_a_built_in_task_takes_them_too(tmp_path):
    found = loaded(tmp_path, "base: nano\nmethods: [base]\ntasks: {judge: {metric: accuracy_norm, num_fewshot: 1}}\n")
    assert (found.tasks[0].metric, found.tasks[0].num_fewshot) == ("accuracy_norm", 1)


@pytest.mark.parametrize(("given", "size"), [("auto", None), ("7", 7)])
def test_the_batch_size_may_be_found(tmp_path, given, size):
    found = loaded(tmp_path, f"{SUITE}evaluate: {{batch_size: {given}}}\n")
    (trial,) = suite.expand(found, "cpu")
    assert trial.evaluation.batch_size == size


@pytest.mark.parametrize("given", ["automatic", "0", "1.5"])
def test_another_batch_size_is_refused(tmp_path, given):
    with pytest.raises(
        UserError, match=r"evaluate\.batch_size: given .*; allowed: a whole number, at least 1, or auto"
    ):
        loaded(tmp_path, f"{SUITE}evaluate: {{batch_size: {given}}}\n")


def test_a_task_of_lm_eval_is_only_scored_and_names_no_folder(tmp_path):
    (tmp_path / "own.yaml").write_text("task: own\n")
    text = "base: nano\nmethods: [full]\ntasks: {judge: {}, a: {lm_eval: true}, b: {lm_eval: ./own.yaml, limit: 3}}\n"
    found = loaded(tmp_path, text)
    _, a, b = found.tasks
    assert (a.kind, a.lm_eval, a.num_fewshot, a.stop) == ("lm_eval", "a", None, ())
    assert (b.lm_eval, b.limit) == (str(tmp_path / "own.yaml"), 3)
    assert found.data == (("judge", 1.0),)
    assert found.scored == ("judge", "a", "b")
    settings = json.dumps(trial_key.settings(suite.expand(found, "cpu")[0]), default=list)
    assert '"own.yaml"' in settings
    assert str(tmp_path) not in settings
