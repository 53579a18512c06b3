"""LoRA-FA: A is frozen and keeps no input, B follows the gradient of the whole weight, and all else is as with LoRA."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from peft.optimizers import create_lorafa_optimizer
from peft.tuners.lora import LoraLayer
from torch import nn

from peftbench import suite
from peftbench.errors import Unsupported
from peftbench.measure.clock import Clock
from peftbench.methods import METHODS, lora, lora_fa, peft_checkpoint
from peftbench.planner.records import Pass
from peftbench.records import OPTIMIZERS
from peftbench.runner import trial
from peftbench.suite import trial_key
from peftbench.training import accounting, frozen_factor, loop, optimizers, saved_state
from peftbench.training.loop import Course
from tests.support import families, trials
from tests.support.method_cells import attached
from tools.validation.planner_accuracy import compare

FA = {"lora_fa": True}
TRAINS_ADAPTERS = [name for name, record in OPTIMIZERS.items() if not record.only_full]


def fa(tiny, folder, method="lora", precision="fp32", **changes):
    """Return the learner of a model with LoRA-FA, and the examples of its steps."""
    options = {**FA, **changes.pop("options", {})}
    _, learner, plan = attached(tiny, method, precision, folder, options=options, **changes)
    return learner, plan


def pairs(model):
    """Yield A, B and the scale of every adapted layer."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            yield module.lora_A["default"].weight, module.lora_B["default"].weight, module.scaling["default"]


def test_the_corrected_gradient_is_the_nearest_to_that_of_the_whole_weight():
    """Section 3 of arXiv:2308.03303, by least squares of its own: min over g of |s g A - G|."""
    torch.manual_seed(0)
    a, b, scale = nn.Parameter(torch.randn(3, 7), requires_grad=False), nn.Parameter(torch.randn(5, 3)), 4.0
    frozen_factor.mark(b, a, scale)
    made = optimizers.make([b], dataclasses.replace(trials.TRAINING, optimizer="sgd", weight_decay=0.0))
    optimizers.set_rate(made, 1.0)
    whole = torch.randn(5, 7)
    b.grad, before = scale * whole @ a.T, b.detach().clone()
    made.step()
    nearest = torch.linalg.lstsq(scale * a.T, whole.T).solution.T
    torch.testing.assert_close(before - b.detach(), nearest, atol=1e-5, rtol=1e-4)


def test_of_a_with_more_rows_than_columns_the_step_stays_finite_and_is_the_nearest():
    """A A^T has no inverse there; peft's step grows with the reciprocal of what it adds to the diagonal."""
    torch.manual_seed(0)
    a, b = nn.Parameter(torch.randn(6, 2), requires_grad=False), nn.Parameter(torch.zeros(5, 6))
    frozen_factor.mark(b, a, 1.0)
    made = optimizers.make([b], dataclasses.replace(trials.TRAINING, optimizer="sgd", weight_decay=0.0))
    optimizers.set_rate(made, 1.0)
    whole = torch.randn(5, 2)
    b.grad = whole @ a.T
    made.step()
    torch.testing.assert_close(-b.detach() @ a, whole, atol=1e-4, rtol=1e-4)


def test_steps_are_those_of_peft_up_to_its_16_bits(tiny, tmp_path):
    training = {"optimizer": "adamw", "weight_decay": 0.0, "clip_norm": None, "learning_rate": 1e-3}
    ours, plan = fa(tiny, tmp_path / "a", training=training)
    _, theirs, _ = attached(tiny, "lora", "fp32", tmp_path / "b", training=training)
    made = create_lorafa_optimizer(theirs.model, r=8, lora_alpha=16, lr=1e-3)
    before = torch.cat([b.detach().flatten() for _, b, _ in pairs(ours.model)])
    for examples in plan[:3]:
        batches = loop.step_batches(ours, examples)
        loop.step(ours, batches, 1e-3)
        loop.batch_loss(theirs.model, batches[0]).div(batches[0].loss_tokens).backward()
        made.step()
        made.zero_grad()
    moved = [torch.cat([b.detach().flatten() for _, b, _ in pairs(m)]) - before for m in (ours.model, theirs.model)]
    assert float((moved[0] - moved[1]).norm()) < 0.05 * float(moved[1].norm()) > 0


@pytest.mark.parametrize("name", TRAINS_ADAPTERS)
def test_every_optimizer_takes_the_corrected_gradient(name):
    torch.manual_seed(0)
    a, gradient, found = nn.Parameter(torch.randn(64, 190), requires_grad=False), torch.randn(80, 64), []
    corrected = gradient @ torch.linalg.inv(a @ a.T) / 9.0
    for marked, given in ((True, gradient), (False, corrected)):
        b = nn.Parameter(torch.ones(80, 64))
        if marked:
            frozen_factor.mark(b, a, 3.0)
        made = optimizers.make([b], dataclasses.replace(trials.TRAINING, optimizer=name))
        b.grad = given.clone()
        made.step()
        found.append(b.detach())
    assert float((found[0] - found[1]).norm() / (found[1] - 1).norm()) < 1e-2


@pytest.mark.parametrize(("method", "precision"), [("lora", "fp32"), ("lora", "bf16-true"), ("qlora", "nf4")])
def test_a_is_kept_as_it_starts_in_the_type_of_b_and_the_input_of_its_layer_is_not_kept(
    method, precision, tiny, tmp_path
):
    learner, plan = fa(tiny, tmp_path / "fa", method, precision)
    _, plain, _ = attached(tiny, method, precision, tmp_path / "plain")
    before = [a.detach().clone() for a, _, _ in pairs(learner.model)]
    for own in (learner, plain):
        for examples in plan[:2]:
            loop.step(own, loop.step_batches(own, examples), 1e-3)
    assert all(torch.equal(a, old) for (a, _, _), old in zip(pairs(learner.model), before, strict=True))
    assert all(a.dtype == b.dtype for a, b, _ in pairs(learner.model))
    books = [accounting.account_step(own, plan[0], False).peak for own in (learner, plain)]
    assert books[0]["adapter"] == books[1]["adapter"]
    assert books[0]["gradients"] < books[1]["gradients"] or books[1]["gradients"] == 0
    assert books[0]["optimizer"] < books[1]["optimizer"]
    assert books[0]["activations"] < 0.85 * books[1]["activations"]


@pytest.mark.parametrize(("method", "precision"), [("lora", "bf16"), ("qlora", "nf4")])
def test_a_plan_is_equal_to_the_byte(method, precision, tiny):
    found, _, book = compare(tiny, method, precision, [Pass(4, 24)], options=FA)
    assert dict(found.categories) == book.peak


def test_training_that_continues_from_a_file_is_the_unbroken_one(tiny, tmp_path):
    training = {"steps": 4, "validate_every": 3}
    whole, plan = fa(tiny, tmp_path / "whole", training=training)
    loop.train(whole, plan, plan[0], Clock(), lambda *_: None)
    first, _ = fa(tiny, tmp_path / "first", training=training)
    (tmp_path / "saved").mkdir()

    def killed(course: Course) -> None:
        if len(course.rows) == 2:
            saved_state.write(tmp_path / "saved", first, course, {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(first, plan, plan[0], Clock(), lambda *_: None, after_each=killed)
    second, _ = fa(tiny, tmp_path / "second", training=training)
    course = saved_state.read(tmp_path / "saved").restore(second)
    loop.train(second, plan, plan[0], Clock(), lambda *_: None, course)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True))


def test_a_stays_frozen_when_the_adapter_was_switched_off_for_a_while(tiny, tmp_path):
    learner, _ = fa(tiny, tmp_path)
    with peft_checkpoint.disabled(learner.model):
        pass
    assert [p.requires_grad for a, b, _ in pairs(learner.model) for p in (a, b)] == [False, True] * sum(
        1 for _ in pairs(learner.model)
    )


def test_a_trial_trains_b_alone_and_what_it_saved_computes_the_same(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, "lora", options=FA, training={"steps": 6, "learning_rate": 1e-2})
    row = trial.run(trials.job(made, tmp_path), 0.0, lambda *_: None, lambda *_: None).row
    plain = trials.trial(tiny, tmp_path, "lora", training={"steps": 6})
    other = trial.run(trials.job(plain, tmp_path), 0.0, lambda *_: None, lambda *_: None).row
    assert (row.status, row.message) == ("ok", None)
    assert row.trainable_parameters < other.trainable_parameters
    assert row.adapted_share == other.adapted_share
    assert json.loads(row.settings_json)["options"]["lora_fa"] is True
    assert "lora_fa" not in json.loads(other.settings_json)["options"]
    assert row.last_loss < row.first_loss


def test_the_option_enters_the_key_only_if_it_is_given(tiny, tmp_path):
    plain = trials.trial(tiny, tmp_path, "lora")
    off = dataclasses.replace(plain, options={**plain.options, "lora_fa": False})
    old = dataclasses.replace(plain, options={n: v for n, v in plain.options.items() if n != "lora_fa"})
    on = dataclasses.replace(plain, options={**plain.options, "lora_fa": True})
    keys = [trial_key.key(each, "b" * 64, "d" * 64) for each in (plain, off, old, on)]
    assert keys[0] == keys[1] == keys[2] != keys[3]
    assert all(
        METHODS[m].options[n].default == v for m, n, v in (("lora", "lora_fa", False), ("qlora", "lora_fa", False))
    )


def cells(tmp_path, text):
    (tmp_path / "x.yaml").write_text(f"base: nano\ntasks: [compute]\nseeds: 1\n{text}\n")
    return [(t.cell, t.unsupported) for t in suite.expand(suite.load(tmp_path / "x.yaml"), "cpu")]


def test_it_is_an_axis_whose_impossible_cells_are_unsupported_with_their_reason(tmp_path):
    found = cells(tmp_path, "methods: { lora: { lora_fa: [false, true], dora: [false, true] } }")
    assert [name for name, why in found if why is None] == [
        "lora r=8 fp32",
        "lora r=8 dora=true fp32",
        "lora r=8 lora_fa=true fp32",
    ]
    ((_, why),) = [each for each in found if each[1]]
    assert why.startswith("lora does not exist with both lora_fa and dora, because the correction")
    ((_, why),) = cells(tmp_path, "methods: { qlora: { lora_fa: true, lora_plus_ratio: 16 } }")
    assert "lora_fa and lora_plus_ratio" in why or "lora_plus_ratio and lora_fa" in why
    more = "devices: {strategy: %s, count: 2}\nmethods: { lora: { lora_fa: true } }"
    assert cells(tmp_path, more % "ddp")[0][1] is None
    assert "lora with lora_fa does not run on fsdp2x2, because the correction" in cells(tmp_path, more % "fsdp2")[0][1]


def test_embeddings_are_refused():
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.lora_embedding_A = nn.ParameterDict({"default": torch.ones(2, 2)})

    with pytest.raises(Unsupported, match="no rule for A and B of an embedding"):
        lora_fa.freeze(One())


def test_adapters_whose_rows_belong_to_several_matrices_are_refused():
    """Of fused experts and of parts of a fused projection A has rows of its own for each, corrected by none."""
    options = {"alpha": 8.0, "dropout": 0.0, "target_modules": "all-linear", **FA}
    experts = families.build(families.config("mixtral")).requires_grad_(False)
    with pytest.raises(Unsupported, match="no rule for fused experts"):
        lora.attach(experts, 4, options)
    experts = families.build(families.config("mixtral")).requires_grad_(False)
    assert all(not a.requires_grad for a, _, _ in pairs(lora.attach(experts, 4, {**options, "experts": "none"})))
    parts = families.build(families.config("gpt2")).requires_grad_(False)
    with pytest.raises(Unsupported, match="take plain LoRA only, no lora_fa"):
        lora.attach(parts, 4, {**options, "target_modules": ["c_attn.q"]})
