"""Activations on the host: the same losses, in less of the device's memory, counted apart. Here both are the CPU's."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from peftbench import cli, suite
from peftbench.measure import ledger
from peftbench.measure.clock import Clock
from peftbench.methods import METHODS
from peftbench.training import accounting, flops, loop, offloading
from tests.support import trials
from tests.support.method_cells import TRAINED, attached
from tests.support.sample import sample

ON = {"offload": "activations"}


def trained(base, name, tmp_path, **training):
    _, learner, plan = attached(base, name, METHODS[name].default_precision, tmp_path, training=training)
    found = loop.train(learner, plan, [], Clock(), lambda *_: None)
    return [(step.loss, step.gradient_norm) for step in found.steps], learner, plan


@pytest.mark.parametrize("name", sample(TRAINED, 4))
def test_losses_and_gradients_are_the_same_bit_for_bit_and_the_device_holds_less(name, tiny, tmp_path):
    expected, learner, plan = trained(tiny, name, tmp_path, micro_batch_size=2)
    before = accounting.account_step(learner, plan[0], METHODS[name].trains_base)
    for others in (
        {},
        {"logits": "chunked"},
        {} if METHODS[name].why_no_checkpointing else {"gradient_checkpointing": 2},
    ):
        found, learner, plan = trained(tiny, name, tmp_path, micro_batch_size=2, **ON, **others)
        assert (
            found == expected
            if "logits" not in others
            else found == trained(tiny, name, tmp_path, micro_batch_size=2, **others)[0]
        )
        counted = accounting.account_step(learner, plan[0], METHODS[name].trains_base)
        assert counted.offloaded_peak > 0
        assert counted.offloaded == 0, "nothing is left when the step is over"
        assert counted.peak_bytes <= before.peak_bytes
    assert before.offloaded_peak == 0


def of(network, **training):
    return SimpleNamespace(model=network, device="cpu", training=replace(trials.TRAINING, **ON, **training))


def test_what_is_moved_is_counted_by_hand_and_each_storage_once():
    b, d, h = 32, 64, 128
    network = nn.Sequential(nn.Linear(d, h, bias=False), nn.ReLU(), nn.Linear(h, d, bias=False))
    x = torch.randn(b, d)
    with ledger.account(network, True, {}) as counted, offloading.saved(of(network)):
        loss = network(x).square().sum()
        # the input; ReLU's output, which ReLU and the second product save; the output
        assert counted.offloaded == (b * d + b * h + b * d) * 4
        assert counted.live["activations"] == 0
        loss.backward()
        assert counted.live["gradients"] == 2 * d * h * 4
    assert counted.offloaded == 0
    own = [p.grad.clone() for p in network.parameters()]
    network.zero_grad()
    network(x).square().sum().backward()
    assert all(map(torch.equal, own, (p.grad for p in network.parameters())))


def test_a_tensor_that_was_changed_after_it_was_saved_keeps_both_values():
    x, w = torch.ones(600), torch.ones(600, requires_grad=True)
    with offloading.saved(of(nn.Sequential())):
        first = (w * x).sum()
        x += 1
        ((w * x).sum() + first).backward()
    assert torch.equal(w.grad, torch.full((600,), 3.0))


def test_weights_and_small_tensors_stay():
    network = nn.Linear(64, 64, bias=False)
    x = torch.randn(2, 64)  # 512 bytes
    with ledger.account(network, True, {}) as counted, offloading.saved(of(network)):
        network(x.requires_grad_()).sum().backward()
    assert counted.offloaded_peak == 0


def test_work_is_counted_with_activations_on_the_host_too(tiny, tmp_path):
    _, learner, plan = attached(tiny, "lora", "fp32", tmp_path, training=ON)
    _, plain, _ = attached(tiny, "lora", "fp32", tmp_path)
    with ledger.account(learner.model, False, {}) as counted:
        found = flops.passes(learner, plan[0])[0].operations
    assert counted.offloaded_peak > 0
    assert found == flops.passes(plain, plan[0])[0].operations


def test_a_trial_has_the_bytes_on_the_host_in_its_row(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path / "data", training=ON, inference=False)
    found = trials.run(made, tmp_path, predicts=True).row
    assert found.status == "ok", found.message
    assert found.peak_offloaded_bytes > 0
    assert found.predicted_train_bytes == found.peak_train_bytes
    assert found.peak_unexplained_bytes is None


SUITE = """
base: nano
device: DEVICE
tasks: [judge]
seeds: 1
methods: {lora: {rank: 2}}
train: {steps: 2, batch_size: 2, sequence_length: 32, offload: [none, activations]}
"""


def test_it_exists_on_a_gpu_alone(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(SUITE.replace("DEVICE", "auto"))
    cells = {t.training.offload: t.unsupported for t in suite.expand(suite.load(path), "cpu")}
    assert cells["none"] is None
    assert (
        "offload: activations does not exist on cpu, because a CPU's activations are in the host"
        in cells["activations"]
    )
    assert not any(t.unsupported for t in suite.expand(suite.load(path), "cuda"))


def test_a_plan_has_the_devices_part_and_the_hosts(tmp_path, capsys):
    path = tmp_path / "s.yaml"
    path.write_text(SUITE.replace("DEVICE", "cuda"))
    cli.main(["plan", str(path), "--memory", "--json"])
    none, moved = (each["memory"] for each in json.loads(capsys.readouterr().out)["cells"])
    assert "offloaded_to_host_bytes" not in none
    assert moved["offloaded_to_host_bytes"] > none["activations_bytes"] / 2
    assert moved["peak_bytes"] < none["peak_bytes"]
    cli.main(["plan", str(path), "--memory"])
    said = " ".join(capsys.readouterr().out.split())
    assert "Beside the peak, which is the device's, a step needs memory of the host: lora r=2 offload=act" in said
