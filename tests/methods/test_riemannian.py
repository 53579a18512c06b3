"""Riemannian preconditioned LoRA: steps are peft's, with every optimizer, and the memory of a step is planned."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from peft.optimizers import create_riemannian_optimizer
from torch import nn

from peftbench import suite
from peftbench.methods import lora_fa
from peftbench.planner.records import Pass
from peftbench.records import OPTIMIZERS
from peftbench.suite import trial_key
from peftbench.training import loop, optimizers, riemannian
from tests.support import trials
from tests.support.method_cells import attached
from tools.validation.planner_accuracy import compare

ON = {"riemannian": True}


def test_steps_of_sgd_are_those_of_peft(tiny, tmp_path):
    training = {"optimizer": "sgd", "weight_decay": 0.0, "clip_norm": None, "learning_rate": 1e-3}
    _, ours, plan = attached(tiny, "lora", "fp32", tmp_path / "a", options=ON, training=training)
    _, theirs, _ = attached(tiny, "lora", "fp32", tmp_path / "b", training=training)
    made = create_riemannian_optimizer(theirs.model, torch.optim.SGD, lr=1e-3)
    start = [p.detach().clone() for p in ours.parameters]
    for examples in plan[:3]:
        batches = loop.step_batches(ours, examples)
        loop.step(ours, batches, 1e-3)
        loop.batch_loss(theirs.model, batches[0]).div(batches[0].loss_tokens).backward()
        made.step()
        made.zero_grad()
    for a, b, old in zip(ours.parameters, theirs.parameters, start, strict=True):
        torch.testing.assert_close(a - old, b - old, atol=1e-6, rtol=1e-3)
    assert any(float((a - old).abs().max()) > 1e-4 for a, old in zip(ours.parameters, start, strict=True))


@pytest.mark.parametrize("name", [name for name, record in OPTIMIZERS.items() if not record.only_full])
def test_every_optimizer_takes_preconditioned_gradients(name):
    torch.manual_seed(0)
    starts = torch.randn(64, 90), torch.randn(80, 64)
    given, found = (torch.randn(64, 90), torch.randn(80, 64)), []
    damping = 0.01 * torch.eye(64)
    known = (
        torch.linalg.inv(starts[1].T @ starts[1] + damping) @ given[0],
        given[1] @ torch.linalg.inv(starts[0] @ starts[0].T + damping),
    )
    for marked, gradients in ((True, given), (False, known)):
        a, b = (nn.Parameter(each.clone()) for each in starts)
        if marked:
            riemannian.mark(a, b)
        made = optimizers.make([a, b], dataclasses.replace(trials.TRAINING, optimizer=name))
        a.grad, b.grad = (each.clone() for each in gradients)
        made.step()
        found.append((a.detach() - starts[0], b.detach() - starts[1]))
    for one, other in zip(*found, strict=True):
        assert float((one - other).norm()) < 2e-2 * float(other.norm()) > 0


def test_a_plan_is_equal_to_the_byte(tiny):
    found, _, book = compare(tiny, "lora", "bf16", [Pass(4, 24)], options=ON)
    assert dict(found.categories) == book.peak


def test_it_enters_the_key_only_if_given_and_excludes_what_it_is_not_derived_for(tiny, tmp_path):
    plain = trials.trial(tiny, tmp_path, "lora")
    old = dataclasses.replace(plain, options={n: v for n, v in plain.options.items() if n != "riemannian"})
    on = dataclasses.replace(plain, options={**plain.options, **ON})
    keys = [trial_key.key(each, "b" * 64, "d" * 64) for each in (plain, old, on)]
    assert keys[0] == keys[1] != keys[2]
    (tmp_path / "x.yaml").write_text(
        "base: nano\ntasks: [compute]\nseeds: 1\nmethods: { lora: { riemannian: true, lora_fa: [false, true] } }\n"
    )
    whys = [t.unsupported for t in suite.expand(suite.load(tmp_path / "x.yaml"), "cpu")]
    assert whys[0] is None
    assert "A does not train there" in whys[1]
    assert lora_fa.OPTION == "lora_fa"
