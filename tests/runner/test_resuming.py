"""An interrupted trial that continues from its saved state equals the unbroken one, bit for bit."""

import json
import os
import random
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from peftbench.measure import environment
from peftbench.methods import METHODS
from peftbench.models.precision import PRECISIONS
from peftbench.records import Phase
from peftbench.runner import resuming, training_states
from peftbench.runner.executor import local
from peftbench.runner.executor.local import with_wall_time
from peftbench.suite import expand, load
from peftbench.training import saved_state
from tests.support import stored_bases, trials
from tests.support.sample import sample

STEPS = 9
CASES = {
    "full": {},
    "full, 8 bit, accumulated": {"method": "full", "training": {"optimizer": "adamw_8bit", "micro_batch_size": 2}},
    "full, bf16-true, adafactor": {
        "method": "full",
        "precision": "bf16-true",
        "training": {"optimizer": "adafactor"},
    },
    "prompt_tuning": {},
    "prefix_tuning": {},
    "adapter": {"training": {"packing": True, "micro_batch_size": 2}},
    "llama_adapter": {},
    "lora": {"options": {"dropout": 0.2}},
    "lora, best on validation": {
        "method": "lora",
        "training": {"score": "best_on_validation", "validate_every": 2, "optimizer": "sgd"},
    },
    "lora, gradient checkpointing": {
        "method": "lora",
        "options": {"lora_plus_ratio": 4.0},
        "training": {"gradient_checkpointing": True, "group_by_length": True},
    },
    "lora, selective checkpointing": {
        "method": "lora",
        "options": {"dropout": 0.2},
        "training": {"gradient_checkpointing": "selective"},
    },
    "lora, activations on the host": {
        "method": "lora",
        "options": {"dropout": 0.2},
        "training": {"offload": "activations", "gradient_checkpointing": 2},
    },
    "full, steps on the host": {"method": "full", "training": {"offload": "all", "optimizer": "adamw_8bit"}},
    "adapter, all on the host": {
        "method": "adapter",
        "training": {"offload": "all", "gradient_checkpointing": 2},
    },
    "qlora": {"precision": "nf4"},
    "int8": {"method": "lora", "precision": "int8"},
    "fp16": {"method": "lora", "precision": "fp16"},
    "adalora": {
        "method": "peft",
        "options": {
            "peft_type": "ADALORA",
            "init_r": 4,
            "target_r": 2,
            "total_step": STEPS,
            "tinit": 1,
            "tfinal": 2,
            "deltaT": 1,
        },
    },
}


class Killed(BaseException):
    """Ends a trial as a kill does: nothing in it may catch this."""


def outcome(made, tmp_path: Path, dies_after=()) -> tuple:
    """Run a trial to its end, interrupted after each of these steps; return the result and the saved weights."""
    from peftbench.runner import trial

    folder = tmp_path / "adapter"
    tmp_path.mkdir(exist_ok=True)
    asked = replace(trials.job(made, tmp_path), adapter_folder=str(folder))
    for last in [*dies_after, None]:

        def report(step, *_, last=last):
            if last is not None and step > last:
                raise Killed

        try:
            result = trial.run(asked, time.perf_counter(), lambda _: None, report)
        except Killed:
            continue
    weights = {path.name: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    return result, weights


def steps(result) -> list:
    return [(s.step, s.loss, s.gradient_norm, s.learning_rate, s.validation_loss) for s in result.steps]


@pytest.mark.parametrize("name", sample(CASES, every=13))
def test_an_interrupted_trial_equals_the_unbroken_one(name, tiny, tmp_path):
    case = {"method": name, **CASES[name]}
    training = {"steps": STEPS, **case.pop("training", {})}
    compare_with_unbroken(trials.trial(tiny, tmp_path / "data", training=training, inference=False, **case), tmp_path)


@pytest.mark.parametrize("precision", [name for name, record in PRECISIONS.items() if record.package])
def test_an_interrupted_trial_in_the_precision_of_an_extra_equals_the_unbroken_one(precision, tiny, tmp_path):
    if why := stored_bases.why_missing(PRECISIONS[precision].package):
        pytest.skip(why)
    given = {"training": {"steps": STEPS}, "inference": False}
    compare_with_unbroken(trials.trial(tiny, tmp_path / "data", "lora", precision, **given), tmp_path)


def compare_with_unbroken(made, tmp_path):
    """Run a trial as it is, and with two interruptions; both give the same steps, examples and weights."""
    whole, weights = outcome(made, tmp_path / "whole")
    assert whole.row.status == "ok", whole.row.message
    every = replace(made, checkpoint_every_seconds=1e-9)
    broken, continued = outcome(every, tmp_path / "broken", dies_after=(2, 6))
    assert broken.row.status == "ok", broken.row.message
    assert broken.row.resumes == 2
    assert whole.row.resumes is None
    assert steps(broken) == steps(whole)
    assert [e.outcome for e in broken.examples] == [e.outcome for e in whole.examples]
    assert broken.row.batches_sha256 == whole.row.batches_sha256
    assert weights
    assert continued.keys() == weights.keys()
    for file, tensors in weights.items():
        for place, tensor in tensors.items():
            assert tensor.equal(continued[file][place]), place


def zoo() -> list:
    """Return the trials of every tuner of peft in fp32 that the suite about them has."""
    suite = load(Path(__file__).parents[2] / "suites" / "peft_zoo.yaml")
    found = [t for t in expand(suite, "cpu") if t.method == "peft" and t.precision == "fp32" and not t.unsupported]
    return [pytest.param(trial, id=trial.cell, marks=pytest.mark.slow) for trial in found]


@pytest.mark.parametrize("made", zoo())
def test_a_tuner_of_peft_that_is_interrupted_equals_the_unbroken_one(made, tmp_path):
    training = replace(made.training, steps=7, batch_size=4, micro_batch_size=2, sequence_length=48)
    made = replace(made, training=training, evaluate=(), tasks=made.tasks[:1], inference=False, retention=None)
    made = replace(
        made,
        options={**made.options, **({"total_step": 7, "tinit": 1, "tfinal": 2} if "tinit" in made.options else {})},
    )
    whole, weights = outcome(made, tmp_path / "whole")
    if whole.row.status == "unsupported":
        pytest.skip(whole.row.message)
    broken, continued = outcome(replace(made, checkpoint_every_seconds=1e-9), tmp_path / "broken", dies_after=(2, 5))
    assert (whole.row.status, broken.row.status, broken.row.resumes) == ("ok", "ok", 2), broken.row.message
    assert steps(broken) == steps(whole)
    for file, tensors in weights.items():
        assert all(tensor.equal(continued[file][place]) for place, tensor in tensors.items())


@pytest.fixture
def made(tiny, tmp_path):
    """A trial of a few steps that saves its state after each."""
    training = {"steps": 3}
    given = trials.trial(tiny, tmp_path / "data", evaluate=("colour",), training=training, inference=False)
    return replace(given, checkpoint_every_seconds=1e-9)


def saved(made, folder: Path, **changes) -> Path:
    """Interrupt a trial after its second step; return its saved state."""
    from peftbench.runner import trial

    def report(step, *_):
        if step > 2:
            raise Killed

    folder.mkdir(exist_ok=True)
    asked = replace(trials.job(made, folder), **changes)
    with pytest.raises(Killed):
        trial.run(asked, time.perf_counter(), lambda _: None, report)
    return training_states.newest(folder, asked.key)


def test_the_time_of_earlier_processes_is_counted_once(made, tmp_path):
    from peftbench.runner import trial

    saved(made, tmp_path / "results")
    begun = time.perf_counter()
    result = trial.run(trials.job(made, tmp_path / "results"), begun, lambda _: None, lambda *_: None)
    wall = time.perf_counter() - begun
    row = with_wall_time(result, wall).row
    assert row.earlier_processes_seconds > 0
    assert row.wall_seconds == pytest.approx(wall + row.earlier_processes_seconds)
    phases = sum(getattr(row, phase.column) or 0.0 for phase in Phase)
    assert phases + row.untracked_seconds == pytest.approx(row.wall_seconds)
    assert row.untracked_seconds >= 0
    assert row.train_seconds == pytest.approx(sum(step.seconds for step in result.steps))
    assert row.checkpoint_seconds > 0
    assert row.validate_seconds is None, "there was no validation"
    assert row.resume_seconds > 0
    assert row.train_energy_joules is None


def truncate(state: Path) -> None:
    (path,) = state.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])


def flip(name: str, byte: int):
    """Return what flips one bit of a file, counted in bytes from its end."""

    def change(state: Path) -> None:
        content = bytearray((state / name).read_bytes())
        content[-byte] ^= 1
        (state / name).write_bytes(content)

    return change


DAMAGES = {
    "another number": (
        lambda state: (state / "state.json").write_text(
            (state / "state.json").read_text().replace('"spent": ', '"spent": 1')
        ),
        "state.json is not what was written",
    ),
    "a flipped bit": (flip("0.safetensors", 3), "0.safetensors is not what was written"),
    "a truncated file": (truncate, "cannot be read"),
    "an empty file": (lambda state: (state / "state.json").write_text(""), "cannot be read"),
    "a missing file": (lambda state: (state / "0.safetensors").unlink(), "parts of it are missing"),
    "missing parts": (lambda state: (state / "state.json").write_text(json.dumps({"format": 1})), "parts of it"),
    "another JSON": (lambda state: (state / "state.json").write_text("[]"), "it has format None"),
    "another file": (lambda state: save_file({"x": torch.zeros(1)}, state / "9.safetensors"), "parts of it"),
}


def test_a_damaged_state_is_not_used(made, tmp_path, caplog):
    state = saved(made, tmp_path / "results")
    for name, (change, reason) in DAMAGES.items():
        copy = shutil.copytree(state, tmp_path / name)
        saved_state.read(copy)
        change(copy)
        with pytest.raises(saved_state.Unusable, match=reason):
            saved_state.read(copy)
    truncate(state)
    result, _ = outcome(made, tmp_path / "results")
    assert (result.row.status, result.row.resumes) == ("ok", None)
    assert "begins anew: " in caplog.text
    assert result.row.state_not_used.startswith("it cannot be read: ")


def test_a_state_that_cannot_be_taken_over_fails_once(made, tmp_path, monkeypatch):
    saved(made, tmp_path / "results")
    with monkeypatch.context() as within:
        within.setattr(saved_state, "_restore_optimizer", lambda *_: 1 / 0)
        result, _ = outcome(made, tmp_path / "results")
    assert (result.row.status, result.row.phase) == ("error", "resume")
    result, _ = outcome(made, tmp_path / "results")
    assert (result.row.status, result.row.resumes) == ("ok", None)


def test_the_first_steps_of_each_process_are_untimed(made, tmp_path):
    saved(made, tmp_path / "results")
    result, _ = outcome(made, tmp_path / "results")
    assert result.row.resumes == 1
    assert [step.untimed for step in result.steps] == [True, False, True], "one step each, of which two had been taken"


def test_a_large_state_is_written_in_parts(made, tmp_path, monkeypatch):
    monkeypatch.setattr(saved_state, "_SHARD_BYTES", 2_000)
    state = saved(made, tmp_path / "results")
    assert len(list(state.glob("*.safetensors"))) > 3
    result, _ = outcome(made, tmp_path / "results")
    assert result.row.resumes == 1


def test_a_state_of_other_versions_is_not_used(made, tmp_path, caplog):
    saved(made, tmp_path / "results", environment_json=json.dumps({"packages": {"torch": "1.0"}}))
    result, _ = outcome(made, tmp_path / "results")
    assert (result.row.status, result.row.resumes) == ("ok", None)
    assert "saved with other packages" in caplog.text


def test_a_state_of_another_uncommitted_source_is_not_used(made, tmp_path, caplog, monkeypatch):
    from peftbench.runner import trial

    told = json.dumps({"git": {"commit": "f" * 40, "dirty": True}})
    with monkeypatch.context() as within:
        within.setattr(environment, "code_sha256", lambda: "another")
        saved(made, tmp_path / "results", environment_json=told)
    saved(made, tmp_path / "same", environment_json=told)
    for name, resumes in (("results", None), ("same", 1)):
        asked = replace(trials.job(made, tmp_path / name), environment_json=told)
        result = trial.run(asked, time.perf_counter(), lambda _: None, lambda *_: None)
        assert (result.row.status, result.row.resumes) == ("ok", resumes)
    assert "saved with other source code" in caplog.text


def test_the_highest_resident_memory_is_that_of_all_processes_of_a_trial(made, tmp_path):
    state = saved(made, tmp_path / "results")
    found = json.loads((state / "state.json").read_text())
    assert found["more"]["peaks"]["host_peak_resident_bytes"] > 0
    found["more"]["peaks"]["host_peak_resident_bytes"] = 2**50
    (state / "state.json").write_text(json.dumps(found))
    (state / "sums.json").write_text(json.dumps(saved_state._sums(state)))
    result, _ = outcome(made, tmp_path / "results")
    assert (result.row.resumes, result.row.host_peak_resident_bytes) == (1, 2**50)


def test_a_state_of_another_format_is_not_used(made, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(saved_state, "FORMAT", 0)
    saved(made, tmp_path / "results")
    monkeypatch.undo()
    result, _ = outcome(made, tmp_path / "results")
    assert result.row.resumes is None
    assert "it has format 0" in caplog.text


def test_a_full_disk_stops_no_trial_and_leaves_no_file(made, tmp_path, monkeypatch, caplog):
    """With the library's own error, which is no ``OSError``."""
    real = saved_state.save_file
    monkeypatch.setattr(saved_state, "save_file", lambda tensors, path: real(tensors, path.parent / "absent" / "x"))
    result, _ = outcome(made, tmp_path / "results")
    assert result.row.status == "ok"
    assert "was not saved" in caplog.text
    assert not list((tmp_path / "results" / training_states.FOLDER).iterdir())


def test_a_method_of_another_package_must_say_what_it_changes(made, tmp_path, monkeypatch):
    other = replace(METHODS["lora"], attach="elsewhere:attach", after_step="elsewhere:after")
    for method, every in ((METHODS["lora"], 1e-9), (other, None), (replace(other, progress="elsewhere"), 1e-9)):
        monkeypatch.setattr(resuming, "method_of", lambda *_, method=method: method)
        run = SimpleNamespace(job=trials.job(made, tmp_path))
        assert resuming.keeper(run, None).every_seconds == every


def test_states_of_finished_trials_are_swept(tmp_path):
    place = tmp_path / training_states.FOLDER
    for name in ("a.3", "b.7", ".1-a"):
        (place / name).mkdir(parents=True)
    training_states.sweep(tmp_path, {"a"})
    training_states.sweep(tmp_path / "absent", {"a"})
    assert sorted(path.name for path in place.iterdir()) == [".1-a", "b.7"]


def test_the_latest_state_replaces_earlier_ones(tmp_path):
    place = tmp_path / training_states.FOLDER
    for name in ("a.9", ".1-a", "ab.11"):
        (place / name).mkdir(parents=True)
    assert training_states.newest(tmp_path, "a") == place / "a.9"
    training_states.install(place / ".1-a", tmp_path, "a", 10)
    assert sorted(path.name for path in place.iterdir()) == ["a.10", "ab.11"]
    assert training_states.newest(tmp_path, "a") == place / "a.10"
    training_states.discard(tmp_path, "a")
    assert training_states.newest(tmp_path, "a") is None


@pytest.mark.slow
def test_three_hundred_steps_killed_twenty_times_equal_the_unbroken_ones(tiny, tmp_path):
    """By SIGKILL of the trial's process, after a random number of steps since it began."""
    training = {"steps": 300, "validate_every": 50, "score": "best_on_validation"}
    made = trials.trial(tiny, tmp_path / "data", options={"dropout": 0.1}, training=training, inference=False)
    whole, weights = outcome(made, tmp_path / "whole")
    rng = random.Random(0)
    folder = tmp_path / "broken"
    folder.mkdir()
    job = trials.job(replace(made, checkpoint_every_seconds=1e-9), folder)
    job = replace(job, adapter_folder=str(folder / "adapter"))
    kills, result = 0, None
    while result is None or result.row.status != "ok":
        last, first, pid = rng.randint(1, 12), None, 0
        for event in local.run([job], workers=1):
            first = event.step if event.step and first is None else first
            if kills < 20 and first is not None and event.step >= first + last:
                os.kill(pid, signal.SIGKILL)
                kills += 1
                last = 1000
            pid = event.process or pid
            result = event.result or result
        assert result.row.status in ("killed", "ok"), result.row.message
    assert kills == 20
    assert result.row.resumes == 20
    assert steps(result) == steps(whole)
    assert result.scores == whole.scores
    for file, tensors in weights.items():
        again = load_file(folder / "adapter" / file)
        assert all(tensor.equal(again[place]) for place, tensor in tensors.items())
