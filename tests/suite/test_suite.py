"""Bad suites: each is one UserError that names file, line, key, what was given, what is allowed, the nearest name."""

import os
import re
from collections import Counter
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from peftbench import suite
from peftbench.errors import UserError

GOOD = """\
base: nano
tasks: [judge]
methods:
  lora:
    rank: 4
"""
OWN_TASK = """\
base: nano
methods: [lora]
tasks:
  mine:
    kind: exact_match
    train: train.csv
    test: test.csv
    prompt: "{{ question }}"
    target: "{{ answer }}"
"""


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Load and expand a suite's text and return the message of the UserError that it must raise."""
    monkeypatch.chdir(tmp_path)

    def message(text, environ=None, **options):
        (tmp_path / "x.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(UserError) as raised:
            suite.expand(suite.load("x.yaml", environ=environ or {}, **options), "cpu")
        assert "Traceback" not in str(raised.value)
        return str(raised.value)

    return message


def swapped(old, new, text=GOOD):
    assert old in text
    return text.replace(old, new)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (swapped("rank: 4", "rnak: 4"), ["x.yaml:5: methods.lora.rnak: unknown key 'rnak'", "rank", "mean 'rank'?"]),
        (GOOD + "timeout_seconds: {laod: 6}", ["x.yaml:6: timeout_seconds.laod: unknown key 'laod'", "mean 'load'?"]),
        (GOOD + "timeout_seconds:\n  load: 0", ["x.yaml:7: timeout_seconds.load: given 0", "above 0"]),
        (GOOD + "timeout_seconds: soon", ["x.yaml:6: timeout_seconds: given 'soon'", "{load: 60, total: 3600}"]),
        (swapped("lora", "lorra"), ["x.yaml:4: methods.lorra: unknown method 'lorra'", "qlora", "mean 'lora'?"]),
        (swapped("judge", "juge"), ["x.yaml:2: tasks.juge: unknown task 'juge'", "describe", "mean 'judge'?"]),
        (swapped("rank: 4", "precision: fp23"), ["x.yaml:5: methods.lora.precision", "nf4", "did you mean 'fp32'?"]),
        (swapped("rank: 4", "rank: four"), ["x.yaml:5: methods.lora.rank: given 'four' (text)", "whole number, at"]),
        (swapped("rank: 4", "rank: 0"), ["methods.lora.rank: given 0 (a whole number)", "at least 1"]),
        (swapped("rank: 4", "rank: 4.5"), ["methods.lora.rank: given 4.5 (a number)"]),
        (swapped("rank: 4", "rank: true"), ["methods.lora.rank: given True (a boolean)"]),
        (swapped("rank: 4", "rank: [4, x]"), ["x.yaml:5: methods.lora.rank.1: given 'x' (text)"]),
        (swapped("rank: 4", "rank: []"), ["x.yaml:5: methods.lora.rank: an empty list has no value"]),
        (
            swapped("rank: 4", "target_modules: []"),
            ["x.yaml:5: methods.lora.target_modules: an empty list has no value"],
        ),
        (GOOD + "  full: {modules: []}\n", ["x.yaml:6: methods.full.modules: an empty list has no value"]),
        (
            swapped("rank: 4", "alpha: big"),
            ["methods.lora.alpha: given 'big'", "a number, above 0, or a multiple of the rank such as 2r, or null"],
        ),
        (
            swapped("rank: 4", "target_modules: [1, a]"),
            ["methods.lora.target_modules: ", "all-linear, attention, or a list of"],
        ),
        (swapped("rank: 4", "learning_rate: -1"), ["methods.lora.learning_rate: given -1", "above 0"]),
        (swapped("rank: 4", "learning_rate: .inf"), ["methods.lora.learning_rate: given inf"]),
        (swapped("rank: 4", "data: [judge]"), ["x.yaml:5: methods.lora.data: unknown key 'data'"]),
        (swapped("\n    rank: 4", " 8"), ["x.yaml:4: methods.lora: given 8", "a mapping of settings"]),
        (swapped("\n    rank: 4", " []"), ["x.yaml:4: methods.lora: an empty list; allowed: a mapping of settings"]),
        (swapped("lora:\n    rank", "full:\n    rank"), ["methods.full.rank: full has no rank"]),
        (swapped("lora:\n    rank", "base:\n    steps"), ["unknown key 'steps'; allowed: precision"]),
        (GOOD + "trian: {steps: 5}\n", ["x.yaml:6: trian: unknown key 'trian'", "did you mean 'train'?"]),
        (GOOD + "train:\n  schedule: lineer\n", ["x.yaml:7: train.schedule: unknown schedule 'lineer'", "cosine"]),
        (GOOD + "train:\n  optimiser: adamw\n", ["x.yaml:7: train.optimiser: ", "did you mean 'optimizer'?"]),
        (GOOD + "train:\n  gradient_checkpointing: on\n", ["given 'on' (text); allowed: true, false, a", "mean true?"]),
        (GOOD + "train: {gradient_checkpointing: selectiv}\n", ["given 'selectiv' (text)", "did you mean selective?"]),
        (
            GOOD + "train: {gradient_checkpointing: 1}\n",
            ["given 1 (a whole number); allowed: true, false, a whole num"],
        ),
        (GOOD + "evaluate: {inference: on}\n", ["given 'on' (text); allowed: true or false", "mean true?"]),
        (GOOD + "train: 5\n", ["x.yaml:6: train: given 5 (a whole number); allowed: a mapping"]),
        (GOOD + "train: []\n", ["x.yaml:6: train: given [] (a list); allowed: a mapping"]),
        (GOOD + "train: {warmup_ratio: 2}\n", ["train.warmup_ratio: given 2", "at least 0, at most 1"]),
        (GOOD + "train: {data: {judge: 0}}\n", ["x.yaml:6: train.data.judge: given 0", "above 0"]),
        (GOOD + "train: {data: [judg]}\n", ["x.yaml:6: train.data.judg: unknown task 'judg'", "mean 'judge'?"]),
        (GOOD + "train: {data: []}\n", ["x.yaml:6: train: ", "nothing can be trained on"]),
        (GOOD + "evaluate: {test_seed: 4}\n", ["x.yaml:6: evaluate.test_seed: given 4", "test set, 0 to 3"]),
        (GOOD + "evaluate: {split: tset}\n", ["x.yaml:6: evaluate.split: unknown split 'tset'", "mean 'test'?"]),
        (
            GOOD + "device: gpu\n",
            ["x.yaml:6: device: unknown device 'gpu'; did you mean 'cpu'? allowed: auto, cpu, cuda"],
        ),
        (GOOD + "seeds: [1, 1]\n", ["x.yaml:6: seeds: given [1, 1]", "different seeds"]),
        (GOOD + "seeds: []\n", ["x.yaml:6: seeds: an empty list"]),
        (GOOD + "seeds: many\n", ["x.yaml:6: seeds: given 'many' (text); allowed: how many", "or a list"]),
        (GOOD + "precision: [fp32, nf5]\n", ["x.yaml:6: precision.1: unknown precision 'nf5'", "did you mean 'nf4'?"]),
        (GOOD + "name: a/b\n", ["x.yaml:6: name: given 'a/b' (text); allowed: a folder's name"]),
        (GOOD + "description: 5\n", ["x.yaml:6: description: given 5", "write it in quotes"]),
        (swapped("base: nano", "base: {sorce: nano}"), ["base.sorce: unknown key", "did you mean 'source'?"]),
        (swapped("base: nano", "base: 5"), ["x.yaml:1: base: given 5", "a hub id"]),
        (swapped("base: nano\n", ""), ["x.yaml:1: base: the key 'base' is missing; allowed: a built-in base"]),
        (swapped("tasks: [judge]", "tasks: judge"), ["x.yaml:2: tasks: given 'judge' (text); allowed: a list"]),
        (swapped("[judge]", "[judge, judge]"), ["x.yaml:2: tasks.1: 'judge' is listed twice"]),
        (swapped("[judge]", "[judge, {mine: {}}]"), ["x.yaml:2: tasks.1: given {'mine'", "allowed: a name"]),
        (swapped("[judge]", "[]"), ["x.yaml:2: tasks: no task is given", "compute"]),
        (swapped("methods:\n  lora:\n    rank: 4", "methods: {}"), ["methods: no method is given", "qlora"]),
    ],
)
def test_a_wrong_value_is_reported_with_line_and_nearest_name(refused, text, parts):
    message = refused(text)
    for part in parts:
        assert part in message, message
    assert all(re.match(r"x\.yaml:\d+: ", line) for line in message.splitlines()), message


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["x.yaml: the file is empty", "base, tasks and methods"]),
        ("# nothing\n\n", ["x.yaml: the file is empty"]),
        ("- a\n- b\n", ["x.yaml:1: a suite is a mapping of keys; given ['a', 'b'] (a list)"]),
        ("\n\njust words\n", ["x.yaml:3: a suite is a mapping of keys; given 'just words' (text)"]),
        ("base: nano\ntasks: [judge\nmethods: x\n", ["x.yaml:3: not YAML: "]),
        ("base: nano\nmethods:\n\tlora:\n", ["x.yaml:3: not YAML: ", "indent with spaces"]),
        ("base: nano\n---\nbase: nano\n", ["x.yaml:2: not YAML: "]),
        (b"base: nano\ndescription: caf\xe9\n", ["x.yaml:2: not UTF-8 text: byte 0xe9"]),
        ("base: nano\n".encode("utf-16"), ["x.yaml:1: not UTF-8 text"]),
        ("base: na\x07no\n", ["x.yaml:1: not YAML: character"]),
        (
            "base: !!python/object/apply:os.system ['true']\n",
            ["x.yaml:1: base: not YAML for a suite: the tag"],
        ),
        ("seeds: !!int x\n", ["x.yaml:1: seeds: not YAML: 'x' cannot be read as int"]),
        ("seeds: !!bool x\n", ["x.yaml:1: seeds: not YAML: 'x' cannot be read as bool"]),
        ("a: {<<: 5}\n", ["x.yaml:1: not YAML: expected a mapping"]),
        (GOOD + "    rank: 8\n", ["x.yaml:6: methods.lora.rank: the key 'rank' is given twice (first in line 5)"]),
        (GOOD + "5: x\n", ["x.yaml:6: the key 5 is not text; write it in quotes"]),
        (GOOD + "? [a]\n: x\n", ["is not text"]),
        ("a: &a [*a]\n", ["x.yaml:1: ", "nested too deeply"]),
        ("a: " + "[" * 5000, ["x.yaml: nested too deeply"]),
        ("".join(f"k{i}: &k{i} [{', '.join([f'*k{i - 1}' if i else 'x'] * 10)}]\n" for i in range(9)), ["too many"]),
    ],
)
def test_a_file_that_is_not_a_suite_is_refused(refused, text, parts):
    message = refused(text)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def test_all_problems_of_a_file_are_reported_at_once(refused):
    text = "base: nano\ntasks: [juge]\nmethods:\n  lora: {rnak: 4, alpha: x}\ntrain: {stpes: 5}\nworkers: 0\n"
    lines = refused(text).splitlines()
    starts = sorted(line.split(": ")[1] for line in lines)
    assert starts == ["methods.lora.alpha", "methods.lora.rnak", "tasks.juge", "train.stpes", "workers"]


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ('    prompt: "{{ question }}"\n', "", ["x.yaml:4: tasks.mine: the key 'prompt' is missing"]),
        ('    target: "{{ answer }}"\n', "", ["x.yaml:4: tasks.mine: the key 'target' is missing"]),
        ("    kind: exact_match\n", "", ["x.yaml:4: tasks.mine: the key 'kind' is missing"]),
        ("exact_match", "exact", ["x.yaml:5: tasks.mine.kind: unknown kind 'exact'", "did you mean 'exact_match'?"]),
        ("exact_match", "choice", ["x.yaml:4: tasks.mine: a choice task needs choices: at least two"]),
        ("exact_match", "choice\n    choices: [a, a]", ["tasks.mine: a choice task needs choices", "['a', 'a']"]),
        ("exact_match", "choice\n    choices: [a, '']", ["x.yaml:6: tasks.mine.choices: given ['a', '']", "not empty"]),
        ("exact_match", "choice\n    choices: [' ', a]", ["tasks.mine.choices: given [' ', 'a']", "not empty"]),
        ("exact_match", "choice\n    labels: {u: '', v: a}", ["tasks.mine.labels: given ['', 'a']", "not empty"]),
        ("exact_match", "choice\n    choices: [a, 1]", ["x.yaml:6: tasks.mine.choices.1: given 1", "in quotes"]),
        ("exact_match", "exact_match\n    choices: [a, b]", ["x.yaml:6: tasks.mine.choices: only a choice task"]),
        ("{{ question }}", "{{ question }", ["x.yaml:8: tasks.mine.prompt: not a Jinja template"]),
        ("{{ answer }}", "{{ answer | nofilter }}", ["x.yaml:9: tasks.mine.target: not a Jinja template", "nofilter"]),
        (
            "test.csv",
            "test.csv\n    columns: [question, anwser]",
            ["mine.target: unknown field 'answer'", "'anwser'?"],
        ),
        ("train.csv", "5", ["x.yaml:6: tasks.mine.train: given 5", "write it in quotes"]),
        (
            "    test: test.csv\n",
            "",
            ["x.yaml:3: tasks: no task has a test split, so nothing would be scored", "or test_fraction"],
        ),
        ("    train: train.csv\n", "", ["train: no task has a train file, so nothing can be trained on"]),
        ("tasks:", "evaluate: {test_seed: 1}\ntasks:", ["x.yaml:3: evaluate.test_seed: only built-in tasks have"]),
        ("train: train.csv", "limit: 0", ["tasks.mine.limit: given 0", "at least 1"]),
        ("train: train.csv", "validation_fraction: 0.1", ["tasks.mine.validation_fraction: ", "the train split"]),
        ("kind: exact_match", "template: e2", ["x.yaml:5: tasks.mine.template: unknown template 'e2'", "mean 'e2e'?"]),
        ("train: train.csv", "dataset: a/b", ["x.yaml:4: tasks.mine: the key 'splits' is missing"]),
        ("train: train.csv", "revision: main", ["tasks.mine.revision: allowed only with the key 'dataset'"]),
        (
            "train: train.csv",
            "dataset: a/b\n    splits: {trian: train}",
            ["x.yaml:7: tasks.mine.splits.trian: unknown split 'trian'", "did you mean 'train'?"],
        ),
        ("test: test.csv", "test: test.csv\n    test_fraction: 0.1", ["tasks.mine.test_fraction: ", "no test file"]),
        ("test: test.csv", "split_seed: 1", ["tasks.mine.split_seed: needs validation_fraction or test_fraction"]),
        (
            "test: test.csv",
            "test_fraction: 0.5\n    validation_fraction: 0.5",
            ["tasks.mine.test_fraction: given 0.5", "no examples would be left to train on"],
        ),
        (
            "test: test.csv",
            "test: test.csv\n    separator: x",
            ["tasks.mine.separator: only a language_modelling task"],
        ),
        ("exact_match", "language_modelling", ["tasks.mine.prompt: a language_modelling task has no prompt"]),
        ("test: test.csv", "test: test.csv\n    system: Be kind.", ["tasks.mine.system: ", "needs chat: true"]),
        ("exact_match", "choice\n    labels: {a: 1}", ["tasks.mine.labels.a: given 1", "in quotes"]),
        ("mine:", "judge:", ["x.yaml:5: tasks.judge.kind: judge is a built-in task", "only limit, max_new"]),
        ("mine:", "my.task:", ["x.yaml:4: ", "given the name 'my.task'", "letters, digits"]),
    ],
)
def test_a_users_task_must_be_complete(refused, old, new, parts):
    message = refused(swapped(old, new, OWN_TASK))
    for part in parts:
        assert part in message, message


def test_a_task_without_train_file_cannot_be_trained_on(refused):
    text = swapped("tasks:\n", "tasks:\n  judge:\n", OWN_TASK).replace("    train: train.csv\n", "")
    message = refused(text + "train:\n  data: [mine]\n")
    assert "x.yaml:11: train.data.mine: the task has no train file; tasks with one: judge" in message


def test_a_task_that_nothing_uses_is_refused(refused):
    text = swapped("tasks:\n", "tasks:\n  judge:\n", OWN_TASK).replace("    test: test.csv\n", "")
    assert "x.yaml:5: tasks.mine: the task has no test split" in refused(text + "train: {data: [judge]}\n")


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ("train: {steps: 5, epochs: 1}\n", ["train.epochs: allowed: exactly one of steps", "given: steps, epochs"]),
        (
            "train: {steps: [5, null]}\n",
            ["x.yaml:4: methods.lora: exactly one of steps, epochs, tokens, seconds is needed"],
        ),
        ("train: {micro_batch_size: 32}\n", ["micro_batch_size: given 32; allowed: at most batch_size, which is 16"]),
        ("train: {score: best_on_validation}\n", ["best_on_validation needs validate_every"]),
    ],
)
def test_settings_that_exclude_each_other_are_refused(refused, more, parts):
    message = refused(GOOD + more)
    for part in parts:
        assert part in message, message


def test_validation_needs_a_validation_split(refused):
    message = refused(OWN_TASK + "train: {validate_every: 10}\n")
    assert "validate_every: no validation split or validation_fraction: mine" in message
    ok = OWN_TASK.replace("    test:", "    validation_fraction: 0.1\n    test:")
    assert "unknown key" in refused(ok + "train: {validate_every: 10}\nx: 1\n")


def test_no_wrong_type_anywhere_ends_in_a_traceback(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = yaml.safe_load(
        "{base: {source: nano, revision: m}, name: a, device: cpu, seeds: [0], rank: [4], precision: [fp32],"
        "workers: 1, tasks: {judge: {limit: 5}, mine: {kind: choice, train: a, test: c, columns: [x],"
        "prompt: '{{ x }}', target: t, choices: [a, b]}},"
        "methods: {base: , lora: [{rank: [1], alpha: 3, target_modules: [q]}]},"
        "train: {data: {judge: 1}, steps: 10, clip_norm: null}, evaluate: {split: test}}"
    )
    outcomes = Counter()
    for path in _paths(whole):
        for wrong in (5, [[]], {"a": 1}, None, 10**30):
            text = yaml.safe_dump(_replaced(whole, path, wrong))
            (tmp_path / "x.yaml").write_text(text)
            message = ""
            try:
                suite.expand(suite.load("x.yaml", environ={}), "cpu")
            except UserError as error:
                message = str(error)
            outcomes["refused" if message else "fine"] += 1
            assert all(line.startswith("x.yaml") for line in message.splitlines()), text
    assert outcomes["refused"] > 150
    assert outcomes["fine"] > 20


def _paths(value):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (key,)
        yield from ((key, *rest) for rest in _paths(item))


def _replaced(whole, path, wrong):
    copy = deepcopy(whole)
    holder = copy
    for part in path[:-1]:
        holder = holder[part]
    holder[path[-1]] = wrong
    return copy


def test_the_same_cell_twice_is_refused(refused):
    message = refused(swapped("    rank: 4", "  - rank: [4, 8]\n  - rank: 8"))
    assert message == "x.yaml:6: methods.lora.1: the same cell twice: 'lora r=8 fp32', also in x.yaml:5: methods.lora.0"
    assert "'lora r=4 fp32' and 'lora r=4 alpha=8 fp32'" in refused(GOOD + "    alpha: [null, 8]\n")


@pytest.mark.parametrize(
    ("block", "part"),
    [
        ("adapter: {scale: [null, 1]}", "'adapter r=64 fp32' and 'adapter r=64 scale=1 fp32'"),
        ("adapter: {kind: parallel, scale: [4, null]}", "'adapter r=64 kind=parallel scale=4 fp32' and 'adapter r=64"),
        ("prefix_tuning: {reparameterization: mlp, hidden_size: [null, 512]}", "hidden_size=512 fp32'"),
    ],
)
def test_a_value_and_the_null_that_stands_for_it_are_the_same_cell(refused, block, part):
    message = refused(swapped("lora:\n    rank: 4", block))
    assert "the same cell twice: " in message
    assert part in message


def test_values_that_null_does_not_stand_for_are_other_cells(tmp_path):
    (tmp_path / "x.yaml").write_text(swapped("lora:\n    rank: 4", "adapter: {kind: parallel, scale: [1, null]}"))
    cells = {trial.cell for trial in suite.expand(suite.load(tmp_path / "x.yaml", environ={}), "cpu")}
    assert cells == {"adapter r=64 kind=parallel scale=1 fp32", "adapter r=64 kind=parallel fp32"}


@pytest.mark.parametrize(
    ("block", "part"),
    [
        ("prefix_tuning: {hidden_size: 8}", "hidden_size: given 8; allowed: only with reparameterization: mlp"),
        ("prompt_tuning: {text: red}", "text: given red; allowed: only with initialization: text"),
        ("prompt_tuning: {initialization: text}", "the key 'text' is missing; initialization: text needs it"),
        ("prompt_tuning: {initialization: [vocabulary, text]}", "x.yaml:4: methods.prompt_tuning: the key 'text' is"),
    ],
)
def test_an_option_without_effect_unless_another_is_given_is_refused(refused, block, part):
    message = refused(swapped("lora:\n    rank: 4", block))
    assert part in message
    assert "methods." in message


def test_an_unknown_suite_is_refused_with_the_nearest_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text(GOOD)
    (tmp_path / "folder").mkdir()
    for name, parts in {
        "quickstrat": ["suite 'quickstrat': no such file", "quickstart, real_small", "; did you mean 'quickstart'?"],
        "./folder/../onw.yaml": ["no such file", "own.yaml'?"],
        "folder": ["suite 'folder': this is a folder"],
        "nowhere/x.yaml": ["suite 'nowhere/x.yaml': no such file"],
    }.items():
        with pytest.raises(UserError) as raised:
            suite.find(name)
        assert all(part in str(raised.value) for part in parts), str(raised.value)


def test_a_file_that_exists_wins_over_a_suite_of_that_name_and_a_folder_does_not(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").mkdir()
    assert suite.find("quickstart").name == "quickstart.yaml"
    assert suite.find("quickstart") == suite.find("quickstart.yaml")
    (tmp_path / "quickstart").rmdir()
    (tmp_path / "quickstart").write_text(GOOD)
    assert suite.load("quickstart", environ={}).path.read_text() == GOOD


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_refused(refused, tmp_path):
    (tmp_path / "y.yaml").write_text(GOOD)
    (tmp_path / "y.yaml").chmod(0)
    with pytest.raises(UserError, match=r"y\.yaml: cannot be read: Permission denied"):
        suite.load(tmp_path / "y.yaml")


def test_a_large_file_is_refused_at_once_and_of_many_problems_the_first_are_listed(tmp_path):
    path = tmp_path / "x.yaml"
    head = "base: nano\ntasks: [judge]\nmethods: [lora]\n"
    path.write_text(head + "".join(f"k{n}: 1\n" for n in range(700_000)))
    with pytest.raises(UserError, match=r"7,588,\d\d\d bytes; allowed: at most 131,072"):
        suite.load(path)
    path.write_text(head + "".join(f"k{n}: 1\n" for n in range(1000)))
    with pytest.raises(UserError, match="and 980 more problems") as error:
        suite.load(path)
    assert len(str(error.value).splitlines()) == 21


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('base: "x\\uD800"\n', "x.yaml:1: base: given 'x\\ud800' (text); allowed: Unicode text"),
        ('base: nano\n"\\uDFFF": 1\n', "the key '\\udfff' is not Unicode text"),
        ('base: nano\ntasks: {t: {choices: ["\\uD800"]}}\n', "x.yaml:2: tasks.t.choices.0: given "),
    ],
)
def test_half_of_a_surrogate_pair_is_refused_with_its_place(tmp_path, monkeypatch, text, problem):
    monkeypatch.chdir(tmp_path)
    Path("x.yaml").write_text(text)
    with pytest.raises(UserError) as error:
        suite.load("x.yaml")
    assert problem in str(error.value)


def test_time_limits_are_of_the_whole_trial_or_of_phases_and_change_no_key(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = []
    for text in ("", "timeout_seconds: 600", "timeout_seconds: {load: 60, train: 3600, total: 7200}"):
        (tmp_path / "x.yaml").write_text(GOOD + text)
        trial = suite.expand(suite.load("x.yaml"), "cpu")[0]
        found.append((trial.timeout_seconds, trial.phase_timeouts))
    assert found == [(None, ()), (600, ()), (7200, (("load", 60), ("train", 3600)))]
