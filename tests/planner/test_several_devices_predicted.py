"""What is predicted for a device of several is what its ledger counts."""

from __future__ import annotations

import dataclasses

import pytest

from peftbench.commands import memory_table
from peftbench.models import builtin
from peftbench.planner import budget, forecast, ranks
from peftbench.planner.predict import load_config, predict
from peftbench.planner.records import Question
from peftbench.records import Devices
from peftbench.training import accounting, loop
from peftbench.training.parallel import make
from tests.support.divided_nano import examples, learner_of, trial_of
from tests.support.ranks import on_ranks

LAYER = 4 * 128 * (4 * 128 + 3 * 384 + 2)
"""Bytes of a decoder layer: FSDP2 may free one that it has gathered a moment later."""


def counted(rank, devices, method, folder):
    learner = learner_of(method, folder, make(devices, rank, "cpu"))
    learner.model.train()
    for step in range(2):  # DDP makes its buckets in the first step and makes them anew in the second
        loop.step(learner, loop.step_batches(learner, examples(step)), 1e-3)
    return accounting.account_step(learner, examples(3), method == "full").peak_bytes


@pytest.mark.parametrize(
    ("strategy", "method"),
    [
        ("ddp", "lora"),
        ("fsdp2", "full"),
        pytest.param("ddp", "full", marks=pytest.mark.slow),
        pytest.param("fsdp2", "adapter", marks=pytest.mark.slow),
    ],
)
def test_a_device_needs_what_is_predicted_for_it(strategy, method, tmp_path):
    devices = Devices(strategy, 2)
    made = trial_of(method, tmp_path, devices=devices)
    measured = on_ranks(2, tmp_path, counted, devices, method, tmp_path)
    passes = budget.passes(examples(3), made.training, 0, devices)
    predicted = [predict(made, builtin.folder("nano"), passes, rank).peak_bytes for rank in range(2)]
    assert len(set(predicted)) == 2, "the devices run passes of different lengths"
    for one, other in zip(predicted, measured, strict=True):
        assert one <= other <= one + (LAYER if strategy == "fsdp2" else 0)


def test_a_plan_has_the_peak_of_each_device_and_is_of_the_highest(tmp_path):
    made = trial_of("lora", tmp_path, devices=Devices("pp", 2))
    config = load_config(made.base, builtin.folder("nano"))
    whole = predict(dataclasses.replace(made, devices=None), config)
    found = ranks.highest(made, config)
    assert found.peak_bytes == max(found.ranks) < whole.peak_bytes
    assert len(found.ranks) == 2
    assert found.flops_per_token == pytest.approx(whole.flops_per_token, rel=1e-3)
    asked = Question()
    text = "\n".join(memory_table.lines([forecast.Forecast(made, found)], asked))
    assert f"  {made.cell}: " in text
