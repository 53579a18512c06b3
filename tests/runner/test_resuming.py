"""An interrupted trial that continues from its saved state equals the unbroken one, bit for bit."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from peftbench.records import Phase
from peftbench.runner import training_states
from tests.support import trials

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


@pytest.mark.parametrize("name", CASES)
def test_an_interrupted_trial_equals_the_unbroken_one(name, tiny, tmp_path):
    case = {"method": name, **CASES[name]}
    training = {"steps": STEPS, **case.pop("training", {})}
    made = trials.trial(tiny, tmp_path / "data", training=training, inference=False, **case)
    whole, weights = outcome(made, tmp_path / "whole")
    assert whole.row.status == "ok", whole.row.message
    every = replace(made, checkpoint_every_seconds=1e-9)
    broken, continued = outcome(every, tmp_path / "broken", dies_after=(2, 6))
    assert broken.row.status == "ok", broken.row.message
    assert broken.row.resumes == 2 and whole.row.resumes is None
    assert steps(broken) == steps(whole)
    assert [e.outcome for e in broken.examples] == [e.outcome for e in whole.examples]
    assert broken.row.batches_sha256 == whole.row.batches_sha256
    assert weights and continued.keys() == weights.keys()
    for file, tensors in weights.items():
        for place, tensor in tensors.items():
            assert tensor.equal(continued[file][place]), place
