"""The score after deployment as the last part of a trial: recorded, without effect on the rest, and never fatal."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from peftbench.errors import Diverged
from peftbench.evaluation.deployed import forms
from peftbench.runner import deploying, grid
from peftbench.runner.executor import Event
from tests.support import trials
from tests.support.results_factory import make_result
from tests.support.trials import run

FORMS = ("adapter", "merged", "requantized")


def found(result):
    return json.loads(result.row.deployed_json)


@pytest.fixture(scope="module")
def plain(tiny, tmp_path_factory):
    place = tmp_path_factory.mktemp("plain")
    return run(trials.trial(tiny, place), place)


@pytest.fixture(scope="module")
def deployed(tiny, tmp_path_factory):
    place = tmp_path_factory.mktemp("deployed")
    result = run(trials.trial(tiny, place, deployed=FORMS), place)
    assert not [path for path in place.iterdir() if path.name.startswith(".saving")]
    return result


def test_each_form_has_scores_outcomes_and_losses_on_the_scored_examples(deployed):
    assert deployed.row.status == "ok"
    assert deployed.row.deploy_seconds > 0
    stored = found(deployed)
    assert list(stored["forms"]) == sorted(FORMS)
    scores = {score.task: score.value for score in deployed.scores}
    for name in ("adapter", "merged"):
        form = stored["forms"][name]
        assert form["status"] == "ok"
        assert form["largest_logit_difference"] < 1e-4
        assert min(form["stored_bytes"], form["loaded_bytes"], form["load_seconds"]) > 0
        for task, value in scores.items():
            before, after = stored["scored"]["tasks"][task], form["tasks"][task]
            assert before["score"] == after["score"] == value
            assert before["outcomes"] == after["outcomes"]
            assert before["outcomes"] == [e.outcome for e in deployed.examples if e.task == task]
            assert after["nats"] == pytest.approx(before["nats"], abs=1e-3)
            assert len(before["tokens"]) == len(before["nats"]) == 8
    assert stored["forms"]["requantized"] == {
        "status": "unsupported",
        "message": "the base model is not quantized in fp32",
    }


def test_nothing_else_of_the_trial_depends_on_it(plain, deployed):
    assert deployed.scores == plain.scores
    assert [dataclasses.replace(e, key="") for e in deployed.examples] == [
        dataclasses.replace(e, key="") for e in plain.examples
    ]
    for name in ("peak_evaluate_bytes", "peak_train_bytes", "largest_logit_change", "checkpoint_bytes", "ledger_json"):
        assert getattr(deployed.row, name) == getattr(plain.row, name), name
    assert plain.row.deployed_json is plain.row.deploy_seconds is None


def test_the_resident_peak_is_that_before_deployment(tiny, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(deploying, "_saved", lambda run, *_: seen.append(run.row.host_peak_resident_bytes) or 1 / 0)
    result = run(trials.trial(tiny, tmp_path, deployed=("merged",)), tmp_path)
    assert seen == [result.row.host_peak_resident_bytes]
    assert found(result)["forms"]["merged"]["status"] == "error"  # and the failure before any form is each form's


def test_forms_that_fail_are_recorded_and_the_trial_is_ok(tiny, tmp_path, monkeypatch):
    errors = {
        "adapter": MemoryError("no room"),
        "merged": RuntimeError("broken in /tmp/x/y.py"),
        "as_lora_2": Diverged("NaN in a logit"),
    }

    def fail(source, form, options, scratch):
        raise errors[form]

    monkeypatch.setattr(forms, "make", fail)
    result = run(trials.trial(tiny, tmp_path, deployed=tuple(errors)), tmp_path)
    assert result.row.status == "ok"
    assert len(result.scores) == 2
    assert found(result)["forms"] == {
        "adapter": {"status": "oom", "message": "MemoryError: no room"},
        "merged": {"status": "error", "message": "RuntimeError: broken in y.py"},
        "as_lora_2": {"status": "diverged", "message": "NaN in a logit"},
    }


def test_a_method_without_any_form_saves_and_loads_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(deploying, "_saved", lambda *_: pytest.fail("nothing is to be deployed"))
    result = run(trials.trial(tiny, tmp_path, "prefix_tuning", deployed=("merged", "as_lora_4")), tmp_path)
    assert {form["status"] for form in found(result)["forms"].values()} == {"unsupported"}
    base = run(trials.trial(tiny, tmp_path, "base", deployed=("merged",)), tmp_path)
    assert (base.row.status, base.row.deployed_json) == ("ok", None)


@pytest.mark.parametrize(("status", "stays"), [("error", True), ("timeout", True), ("unsupported", False)])
def test_the_log_of_an_ok_trial_stays_if_a_form_failed_and_files_of_a_killed_one_do_not(status, stays, tiny, tmp_path):
    job = trials.job(trials.trial(tiny, tmp_path, deployed=("merged",)), tmp_path)
    Path(job.log).write_text("vllm printed: no space\n")
    left = tmp_path / ".saving-4194305-x"  # no process has such an id
    left.mkdir()
    stored = {"forms": {"merged": {"status": status, "message": "why"}}}
    grid._tidy(tmp_path, Event(job, "deploy", result=make_result(deployed_json=json.dumps(stored))))
    assert Path(job.log).exists() == stays
    assert left.exists() != stays
