"""Smoke mode: two steps of the cells of every suite of the repository, on the built-in base model."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from functools import cache

import pytest

from peftbench import cli, suite
from peftbench.results.store import read_trials
from peftbench.runner import trial
from peftbench.runner.executor import Event, local
from peftbench.suite import trial_key
from peftbench.suite.smoke import SUFFIX, smoke
from tests.support import trials

SUITES = suite.names()


@cache
def small(name):
    return smoke(suite.load(name, smoke=True, environ={}), "cpu")


def distinct(kind):
    """The first supported trial of each kind over all suites."""
    found = {}
    for name in SUITES:
        for one in small(name).trials:
            if one.unsupported is None:
                found.setdefault(kind(one), pytest.param(one, id=f"{name}-{one.cell}"))
    return found


def variant(one):
    return one.method, one.options.get("peft_type")


FEW = [one for one in distinct(lambda one: one.method).values() if one.values[0].method in ("base", "lora", "full")]
"""The others' first steps are tests of ``tests/methods``, and here with --run-slow."""
EVERYTHING = {
    id(param.values[0]): param
    for found in (distinct(variant), distinct(lambda one: (one.method, one.precision)))
    for param in found.values()
}
"""Each method, each tuner of peft, and each precision of each method."""


def run(one, tmp_path):
    return trial.run(trials.job(one, tmp_path), time.perf_counter(), lambda _: None, lambda *_: None)


def proved(one, tmp_path):
    result = run(one, tmp_path)
    assert result.row.status == "ok" or (result.row.status, one.method) == ("unsupported", "peft"), result.row.message
    if result.row.status == "ok":
        assert {score.task for score in result.scores} == set(one.evaluate)
        assert [step.step for step in result.steps] == ([1, 2] if one.training else [])


@pytest.mark.parametrize("one", FEW)
def test_a_cell_of_a_method_ends_ok(one, tmp_path):
    proved(one, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("one", EVERYTHING.values())
def test_a_cell_of_every_method_tuner_and_precision_ends_ok(one, tmp_path):
    proved(one, tmp_path)


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_becomes_small_trials_without_its_own_base_models_and_data(name):
    loaded = suite.load(name, smoke=True, environ={})
    assert loaded.name.endswith(SUFFIX)
    found = small(name)
    assert found.trials
    for one in found.trials:
        assert (one.base.source, one.evaluation.split, one.inference) == ("nano", "validation", False)
        assert all(task.builtin and not task.files and task.limit for task in one.tasks)
        assert one.training is None or (one.training.steps, one.training.epochs, one.training.tokens) == (2, None, None)
    told = {cell.partition(":")[0] for cell in found.notes if "not run, in smoke mode it is the same as" in cell}
    cells = {one.cell for one in suite.expand(loaded, "cpu")}
    assert {one.cell for one in found.trials} == cells - told
    assert len({json.dumps(trial_key.settings(one), default=list) for one in found.trials}) == len(found.trials)


FOREIGN = """
base: {source: nowhere/gpt-9, revision: abc}
device: cuda
tasks:
  mine: {kind: generation, train: gone.jsonl, validation_fraction: 0.1, test: "${WHERE}", prompt: "{{ a }}", target: b}
seeds: 5
evaluate: {retention: {file: gone.txt}}
train: {epochs: 3, batch_size: 64, micro_batch_size: 8, sequence_length: 2048, learning_rate: [1.0e-4, 1.0e-3]}
methods:
  full: {layers: 24, precision: bf16-true}
  lora:
    - {rank: 256, target_modules: [query_key_value]}
    - {rank: 256, target_modules: [q_proj, k_proj, c_attn], rank_pattern: {k_proj: 4, c_fc: 4}}
    - {rank: 256, target_modules: [c_proj]}
  qlora: {precision: nf4}
  peft:
    - {peft_type: IA3, target_modules: [k, v], feedforward_modules: []}
    - {peft_type: LOHA, r: 8, target_modules: all-linear, layers_to_transform: [1, 30]}
    - {peft_type: TRAINABLE_TOKENS, token_indices: [5, 32000]}
  prompt_tuning: {rank: 500}
"""


@pytest.fixture
def foreign(tmp_path):
    (tmp_path / "foreign.yaml").write_text(FOREIGN)
    return tmp_path / "foreign.yaml"


def test_settings_for_another_model_are_adapted_and_reported(foreign):
    found = smoke(suite.load(foreign, smoke=True), "cpu")
    full, one, two, _, ia3, loha, tokens, prompt = found.trials
    assert full.options["layers"] == 4
    assert (one.rank, one.options["target_modules"], one.training.micro_batch_size) == (128, "all-linear", 1)
    assert two.options["target_modules"] == ["q_proj", "k_proj"]
    assert two.options["rank_pattern"] == {"k_proj": 4}
    assert "target_modules" not in ia3.options
    assert loha.options["layers_to_transform"] == [1]
    assert tokens.options["token_indices"] == [5, 32000 % 1024]
    assert prompt.rank == 128
    assert {one.seed for one in found.trials} == {0}
    assert {one.device for one in found.trials} == {"cpu"}
    told = "\n".join(found.notes)
    assert "full layers=24 bf16-true: layers 24 is for another model; smoke mode uses 4" in told
    assert "target_modules query_key_value is for another model; smoke mode uses all-linear" in told
    assert "rank 256 exceeds the width of nano; smoke mode uses 128" in told
    assert ": target_modules k+v is for another model; smoke mode uses the tuner's default" in told
    assert "prompt_tuning r=500 fp32: rank 500 exceeds the width of nano; smoke mode uses 128" in told
    same = "not run, in smoke mode it is the same as lora r=256 target_modules=query"
    assert f"lora r=256 target_modules=c_proj fp32: {same}" in told


def test_run_smoke_uses_its_own_folder_can_be_repeated_and_prints_its_changes(foreign, tmp_path, monkeypatch, capsys):
    """Even if the base model, the data, the text for retention, the GPU and a variable are missing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "run", trials.in_this_process)
    command = [str(foreign), "--smoke", "--only", "method=prompt_tuning"]
    assert cli.main(["run", *command]) == 0
    printed = capsys.readouterr()
    assert "note: smoke mode: 2 steps of 2 examples on nano" in printed.err
    assert "the smoke run is fine, but the suite itself cannot run here yet: " in printed.out
    assert printed.out.splitlines()[-1].startswith(
        f"next: mend that, then peftbench plan {foreign.name} --only method="
    )
    (row,) = read_trials(tmp_path / "results" / "foreign-smoke").to_dict("records")
    assert (row["suite"], row["base"], row["status"], row["rank"]) == ("foreign-smoke", "nano", "ok", 128)
    assert 0 <= row["score_mine"] <= 1
    assert row["retention_texts"] == 2
    assert row["predicted_train_bytes"] is None or row["predicted_train_bytes"] != row["predicted_train_bytes"]
    assert "--smoke" in json.loads(row["environment_json"])["command"]
    assert cli.main(["plan", *command]) == 0
    told = capsys.readouterr().out
    assert "prompt_tuning r=500 fp32  seed 0" in told
    assert "1 cell, 1 seed (0): 1 trial; all can run" in told
    assert cli.main(["run", *command]) == 0
    assert "0 of them done already" in capsys.readouterr().err, "what was changed since then is what is to be proved"


def test_without_smoke_mode_the_same_suite_is_refused(foreign, capsys):
    assert cli.main(["plan", str(foreign)]) == 2
    assert "the environment variable WHERE is not set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("column", "end"), [("txt", "next: mend that, then peftbench plan"), ("text", "next: peftbench run")]
)
def test_a_smoke_run_ends_with_what_is_wrong_with_the_suites_own_data(column, end, tmp_path, monkeypatch, capsys):
    (tmp_path / "data.csv").write_text("text,label\n" + "".join(f"sentence {i},{i % 2}\n" for i in range(20)))
    task = f"{{kind: choice, train: data.csv, test: data.csv, prompt: '{{{{ {column} }}}}', target: '{{{{ label }}}}'"
    (tmp_path / "mine.yaml").write_text(
        f"base: nano\ntasks: {{own: {task}, choices: ['0', '1']}}}}\ntrain: {{steps: 2}}\nmethods: [lora]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "run", trials.in_this_process)
    assert cli.main(["run", "mine.yaml", "--smoke"]) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith(end)
    assert ("'txt' is undefined" in " ".join(printed.split())) == (column == "txt")


def test_a_smoke_trial_that_fails_fails_the_command(foreign, tmp_path, monkeypatch, capsys):
    def broken(jobs, workers):
        for job in jobs:
            yield Event(job, "train", result=local.failure(job, trial.Status.ERROR, "train", "planted"))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(local, "run", broken)
    assert cli.main(["run", str(foreign), "--smoke", "--only", "method=prompt_tuning"]) == 1
    assert "planted" in capsys.readouterr().err


def test_smoke_mode_skips_a_search_and_uses_its_smallest_rate(foreign):
    trials = smoke(suite.load(foreign, smoke=True), "cpu").trials
    assert {one.training.learning_rate for one in trials if one.method == "full"} == {1e-4}
    assert {one.training.learning_rate for one in trials if one.method != "full"} == {1e-2}, "the smallest that moves"


@pytest.mark.parametrize(("start", "rank"), [("pissa", 128), ("lora_ga", 64)])
def test_a_rank_becomes_the_largest_that_the_initialization_has_on_the_built_in_base(start, rank, tmp_path):
    path = tmp_path / "started.yaml"
    path.write_text(f"base: nano\ntasks: [judge]\nmethods: {{lora: {{rank: 128, initialization: {start}}}}}\n")
    (one,) = smoke(suite.load(path, smoke=True), "cpu").trials
    assert one.rank == rank
    assert run(one, tmp_path).row.status == "ok"


def test_the_largest_rank_of_lora_ga_holds_for_the_tuner_of_peft_too(tmp_path):
    path = tmp_path / "started.yaml"
    tuner = "{peft_type: LORA, r: 128, init_lora_weights: lora_ga, lora_ga_config: {}, learning_rate: 1e-3}"
    path.write_text(f"base: nano\ntasks: [judge]\nmethods: {{peft: {tuner}}}\n")
    assert [one.rank for one in smoke(suite.load(path, smoke=True), "cpu").trials] == [64]


def test_a_task_of_lm_eval_that_gives_no_length_of_answers_becomes_small(tmp_path):
    """MMLU is ranked: its ``max_new_tokens`` is 0, and 0 tokens cannot be decoded."""
    path = tmp_path / "ranked.yaml"
    path.write_text("base: nano\ntasks: {judge: {}, mmlu: {lm_eval: true}}\nmethods: [lora]\n")
    (one,) = smoke(suite.load(path, smoke=True), "cpu").trials
    assert all(task.max_new_tokens > 0 for task in one.tasks)


def test_a_strict_audit_does_not_fail_a_smoke_run(foreign):
    loaded = suite.load(foreign, overrides=["audit=strict"], smoke=True)
    assert not loaded.strict
    assert replace(loaded, strict=True) != loaded
