"""Trials on several devices whose model has a head for whole texts, and what FSDP2 refuses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from peftbench.planner.ranks import _share_that_counts
from peftbench.records import Devices
from peftbench.runner import pilot_shape
from tests.support import encoders, several_devices, tiny_base, trials

DDP, FSDP2 = Devices("ddp", 2), Devices("fsdp2", 2)


def rows(base, folder, method, devices, training=None, task=None, **changes):
    """Run a trial on each of the devices, and return the results."""
    task = task or encoders.texts(folder)
    settings = {"data": (("texts", 1.0),), "steps": 3, "learning_rate": 1e-2, **(training or {})}
    settings |= {"batch_size": 4, "micro_batch_size": 2}
    changes |= {"tasks": (task,), "evaluate": ("texts",), "inference": False, "training": settings}
    made = [trials.trial(base, folder, method, devices=each, **changes) for each in devices]
    jobs = [replace(trials.job(one, folder), key=f"{place:016x}") for place, one in enumerate(made)]
    return several_devices.finished(jobs)


def test_virtual_tokens_before_a_head_are_passed_over_under_ddp(tmp_path):
    base = tiny_base.make(tmp_path / "llama")
    one, other = rows(base, tmp_path, "prompt_tuning", (None, DDP))
    several_devices.same_training(one, other)


@pytest.mark.slow
def test_an_encoder_that_is_validated_under_ddp_has_the_losses_of_one_process(tmp_path):
    base = encoders.make(tmp_path / "bert")
    one, other = rows(base, tmp_path, "lora", (None, DDP), {"validate_every": 1})
    several_devices.same_training(one, other)
    assert all(step.validation_loss is not None for step in one.steps)


def test_fsdp2_refuses_a_decoders_head_and_parameters_that_layers_share(tmp_path):
    base = tiny_base.make(tmp_path / "llama")
    (headed,) = rows(base, tmp_path, "full", (FSDP2,))
    assert headed.row.status == "unsupported"
    assert headed.row.message == "fsdp2: a decoder's head for whole texts is not divided; use ddp"
    made = trials.trial(base, tmp_path, "peft", options={"peft_type": "TINYLORA"}, devices=FSDP2, evaluate=("colour",))
    (shared,) = several_devices.finished([trials.job(made, tmp_path)])
    assert shared.row.status == "unsupported", shared.row.message
    assert "layers share parameters" in shared.row.message


def test_passes_of_weight_zero_are_no_work():
    assert _share_that_counts(DDP, 1) == 0.5
    assert _share_that_counts(FSDP2, 3) == 0.75
    assert _share_that_counts(DDP, 4) == _share_that_counts(Devices("pp", 2), 3) == 1


def test_the_time_of_a_trial_is_not_that_of_one_on_other_devices(tiny, tmp_path):
    shapes = {pilot_shape.shape(trials.trial(tiny, tmp_path, devices=each)) for each in (None, DDP, FSDP2)}
    assert len(shapes) == 3
