"""Defaults that follow from base and data, from ``plan`` and the Python interface to the rows and the report."""

import json

import pytest

import peftbench
from peftbench import cli, suite
from peftbench.models import here
from peftbench.report import collect
from peftbench.report.notes import defaults
from peftbench.suite import base_defaults
from tests.support import colours

REST = """\
seeds: 1
methods: {base: , full: , lora: {learning_rate: search}, adapter: {learning_rate: 1e-3}}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("defaults")
    colours.with_validation(folder, REST)
    return folder


def test_plan_run_rows_and_report_have_the_same_defaults(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert cli.main(["plan", "x.yaml"]) == 0
    planned = capsys.readouterr().out
    assert "default: learning_rate: 0.00075 for full fp32 (untuned default for a hidden size of 64)" in planned
    assert "default: learning_rate of lora r=8 fp32: searched around 0.0074, the untuned default for" in planned
    assert "default: steps 2: one pass over 30 training examples, at most 1,000 steps" in planned
    assert "a learning-rate search on the validation split runs first: 5 cells" in planned

    run = peftbench.run_suite("x.yaml", "res")
    assert run.statuses == {"ok": 4}
    rows = peftbench.read_results(run.folder).trials.set_index("method")
    assert rows["learning_rate_source"].dropna().to_dict() == {"full": "rule", "lora": "search", "adapter": "suite"}
    wanted = {t.method: t for t in suite.expand(base_defaults.resolve(suite.load("x.yaml")), "cpu")}
    for method in ("full", "adapter"):
        stored = json.loads(rows.loc[method, "settings_json"])["train"]
        assert (stored["steps"], stored["sequence_length"]) == (2, wanted[method].training.sequence_length)
        assert stored["learning_rate"] == wanted[method].training.learning_rate
    assert set(json.loads(rows.loc["full", "defaults_json"])) == {"learning_rate", "steps", "sequence_length"}

    capsys.readouterr()
    assert peftbench.run_suite("x.yaml", "res", verbose=True).statuses == {"ok": 4}
    assert "4 trials, 4 of them done already" in capsys.readouterr().err

    text = " ".join(defaults.notes(collect.collect(run.folder)))
    assert "Untuned default rates: 0.00075 for full fp32" in text
    assert "steps 2 (one pass over 30 training examples, at most 1,000 steps)" in text


def test_plan_of_memory_predicts_the_resolved_step(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert cli.main(["plan", "x.yaml", "--memory", "--only", "method=full"]) == 0
    resolved = base_defaults.resolve(suite.load("x.yaml"), here.described).defaults
    assert f"for a step of 16 x {resolved.sequence_length} tokens" in " ".join(capsys.readouterr().out.split())


def test_plan_of_a_hub_id_that_is_not_here_says_what_is_not_known(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert cli.main(["plan", "x.yaml", "--set", "base=somebody/some-model"]) == 0
    assert "follow from the base model, which is not here yet" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("process", ["this", pytest.param("another", marks=[pytest.mark.slow, pytest.mark.spawns])])
def test_match_and_smoke_mode_work_with_defaults(process, place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    only = ["--set", "methods=[lora, adapter]", "--set", "match.trainable_parameters=20000"]
    assert cli.main(["plan", "x.yaml", *only]) == 0
    assert "default: learning_rate: 0.0074 for lora r=" in capsys.readouterr().out
    assert cli.main(["plan", "x.yaml", "--smoke"]) == 0
    assert "default:" not in capsys.readouterr().out
