"""Optimizer steps on the host: the same steps with less on the device. Here both are the CPU's memory."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from peftbench import cli, suite
from peftbench.measure import optimizer_state
from peftbench.measure.clock import Clock
from peftbench.methods import METHODS, method_of, offload_support
from peftbench.records import OPTIMIZERS
from peftbench.runner.checks import first_step
from peftbench.training import accounting, flops, host_step, loop, saved_state
from tests.support import trials
from tests.support.method_cells import TRAINED, attached
from tests.support.sample import sample

ON = {"offload": "optimizer"}


def trained(base, name, tmp_path, options=None, precision=None, **training):
    own = {"options": options} if options else {}
    precision = precision or METHODS[name].default_precision
    _, learner, plan = attached(base, name, precision, tmp_path, training={"optimizer": "adamw", **training}, **own)
    found = loop.train(learner, plan, [], Clock(), lambda *_: None)
    return [(step.loss, step.gradient_norm) for step in found.steps], learner, plan


def same_and_counted(base, name, tmp_path, **case):
    """Train with steps on the device and on the host; return what the ledger counts of a step of both."""
    sides = []
    for more in ({}, ON):
        found, learner, plan = trained(base, name, tmp_path, **case, **more)
        weights = [p.detach().clone() for p in learner.parameters]
        sides.append((found, weights, accounting.account_steps(learner, plan[:1], METHODS[name].trains_base), learner))
    (expected, before, plain, _), (found, after, counted, learner) = sides
    assert found == expected
    assert all(map(torch.equal, before, after))
    assert all(p.grad is None for p in learner.parameters)
    return plain, counted, learner


@pytest.mark.parametrize("name", sample(TRAINED, 4))
def test_steps_are_the_same_bit_for_bit_and_the_device_has_no_state(name, tiny, tmp_path):
    plain, counted, learner = same_and_counted(tiny, name, tmp_path, micro_batch_size=2)
    state = sum(value.nbytes for entry in learner.optimizer.state.values() for value in entry.values())
    assert counted.offloaded == state, "what is left on the host when the step is over"
    assert counted.peak["optimizer"] == 0 < plain.peak["optimizer"]
    assert counted.peak_bytes <= plain.peak_bytes


WHOLE = [
    name
    for name, o in OPTIMIZERS.items()
    if not o.paged and not o.in_backward and not o.scores_mean and name != "adamw"
]


@pytest.mark.parametrize("optimizer", sample(WHOLE, 3))
def test_every_other_optimizer_takes_the_same_steps_there(optimizer, tiny, tmp_path):
    case = {"optimizer": optimizer, "steps": 2, "weight_decay": 0.1}
    plain, counted, _ = same_and_counted(tiny, "full", tmp_path, **case)
    if plain.peak["gradients"]:
        assert counted.peak["gradients"] < plain.peak["gradients"] / 2


@pytest.mark.parametrize("options", [{"turns": "lisa", "turn_size": 1, "turn_steps": 2}, {"turns": "badam"}])
def test_layers_in_turns_leave_the_state_of_their_turn_on_the_host(options, tiny, tmp_path):
    same_and_counted(tiny, "full", tmp_path, options=options)


@pytest.mark.parametrize(
    ("name", "options"),
    [("lora", {"lora_fa": True}), ("lora", {"riemannian": True, "lora_plus_ratio": 4.0}), ("full", {"layers": 1})],
)
def test_gradients_that_are_changed_before_a_step_are_the_same(name, options, tiny, tmp_path):
    same_and_counted(tiny, name, tmp_path, options=options)


def test_by_hand_a_step_holds_weights_gradients_and_state_on_the_host_and_one_gradient_on_the_device(tiny, tmp_path):
    _, counted, learner = same_and_counted(tiny, "full", tmp_path, optimizer="sgd")
    weights = sum(p.nbytes for p in learner.parameters)
    beside = counted.offloaded_peak - 2 * weights  # gradients, and the weights during the step; sgd has no state
    assert 0 <= beside <= 8 * 4 * len(learner.parameters), "norms"
    assert counted.offloaded == 0
    largest = max(p.nbytes for p in learner.parameters)
    assert counted.peak["gradients"] <= largest


def test_a_step_finds_parameters_and_gradients_on_the_host_and_leaves_the_device_as_it_was(tiny, tmp_path):
    _, learner, plan = attached(tiny, "lora", "fp32", tmp_path, training=ON)
    before = [p.data_ptr() for p in learner.parameters]
    seen = []
    learner.optimizer.register_step_pre_hook(
        lambda *_: seen.append([(p.data_ptr(), p.grad is not None) for p in learner.parameters])
    )
    loop.step(learner, loop.step_batches(learner, plan[0]), 1e-2, 0)
    assert [p.data_ptr() for p in learner.parameters] == before
    ((found),) = seen
    assert all(has for _, has in found)
    assert not {place for place, _ in found} & set(before)
    with pytest.raises(RuntimeError, match="in the step"), host_step.on_host(learner, {}):
        raise RuntimeError("in the step")
    assert [p.data_ptr() for p in learner.parameters] == before


def test_checks_and_the_count_of_work_hold_one_gradient_of_a_whole_model_at_a_time(tiny, tmp_path, monkeypatch):
    base, learner, plan = attached(tiny, "full", "fp32", tmp_path, training=ON)
    held = []
    drop = accounting.account(learner.model, True, {})
    with drop as counted:
        first_step.check(learner, base.model, METHODS["full"], loop.step_batches(learner, plan[0])[0])
        held.append(counted.peak["gradients"])
        flops.passes(learner, plan[0])
        held.append(counted.peak["gradients"])
    assert max(held) <= max(p.nbytes for p in learner.parameters)


def test_a_trial_has_both_parts_in_its_row_and_both_are_predicted(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path / "data", "full", training=ON, inference=False)
    found = trials.run(made, tmp_path, predicts=True).row
    assert found.status == "ok", found.message
    assert found.predicted_train_bytes == found.peak_train_bytes
    assert found.peak_optimizer_bytes == 0
    assert found.peak_offloaded_bytes > 3 * found.trainable_parameters * 4
    assert found.peak_unexplained_bytes is None


SUITE = """
base: {shape: llama-7b}
device: DEVICE
tasks: [judge]
seeds: 1
methods: {full: {precision: bf16-true}}
train: {batch_size: 1, sequence_length: 512, gradient_checkpointing: true, offload: [none, optimizer, all]}
"""


@pytest.mark.slow
def test_a_plan_brings_full_fine_tuning_of_seven_billion_weights_under_16_gb(tmp_path, capsys):
    path = tmp_path / "s.yaml"
    path.write_text(SUITE.replace("DEVICE", "cuda"))
    cli.main(["plan", str(path), "--memory", "--json"])
    none, step, every = (each["memory"] for each in json.loads(capsys.readouterr().out)["cells"])
    assert none["peak_bytes"] > 50e9
    assert every["peak_bytes"] < step["peak_bytes"] < 14e9
    weights = step["base_weights_bytes"]
    # in the step: weights, gradients and two moments, of the same dtype
    assert step["offloaded_to_host_bytes"] == pytest.approx(4 * weights, rel=1e-4)


def test_it_exists_on_a_gpu_alone(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(SUITE.replace("DEVICE", "cpu"))
    cells = {t.training.offload: t.unsupported for t in suite.expand(suite.load(path), "cpu")}
    assert cells["none"] is None
    assert (
        "offload: optimizer does not exist on cpu, because a CPU's gradients and optimizer state" in cells["optimizer"]
    )
    assert "offload: all does not exist on cpu" in cells["all"]


@pytest.mark.parametrize(
    ("method", "precision", "training", "reason"),
    [
        ("qlora", "nf4", {"optimizer": "paged_adamw"}, "the driver moves the state of paged_adamw"),
        ("full", "fp32", {"optimizer": "lomo"}, "lomo has one gradient at a time"),
        ("full", "fp32", {"optimizer": "schedule_free_adamw"}, "computes the weights that are scored from its state"),
        ("lora", "fp16", {}, "torch's gradient scaler keeps its scale on the device"),
    ],
)
@pytest.mark.parametrize("kept", ["optimizer", "all"])
def test_what_it_excludes(method, precision, training, reason, kept):
    made = replace(trials.TRAINING, **training, offload=kept)
    cell, why = offload_support.refused(METHODS[method], precision, "cuda", made)
    assert cell == f"{method} {precision} does not exist with offload: {kept}"
    assert reason in why
    only = replace(made, offload="activations")
    assert offload_support.refused(METHODS[method], precision, "cuda", only) is None


def test_a_tuner_that_prunes_by_gradients_after_a_step_is_excluded():
    record = method_of("peft", {"peft_type": "ADALORA"})
    made = replace(trials.TRAINING, **ON)
    _, why = offload_support.refused(record, "fp32", "cuda", made)
    assert "it prunes by weights and gradients after each step" in why


def test_restored_state_is_on_the_host(tiny, tmp_path):
    _, learner, _ = trained(tiny, "full", tmp_path, **ON)
    folder = tmp_path / "state"
    folder.mkdir()
    saved_state.write(folder, learner, loop.Course(), {})
    _, fresh, _ = attached(tiny, "full", "fp32", tmp_path, training=ON)
    places = []
    usual = saved_state._restore_optimizer

    def restore(learner, *rest):
        places.extend(p.data_ptr() for p in learner.parameters)
        usual(learner, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(saved_state, "_restore_optimizer", restore)
        saved_state.read(folder).restore(fresh)
    assert not set(places) & {p.data_ptr() for p in fresh.parameters}, "parameters were on the host, where state goes"
    for one, other in zip(learner.parameters, fresh.parameters, strict=True):
        for name, value in optimizer_state.flat(learner.optimizer.state[one]).items():
            assert torch.equal(value, fresh.optimizer.state[other][name])
