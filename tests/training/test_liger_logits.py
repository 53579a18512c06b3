"""liger's fused linear cross-entropy gives the losses and gradients of whole logits, or is refused.

liger's kernels run on a CPU in triton's interpreter: ``TRITON_INTERPRET=1``, with liger-kernel and triton installed.
"""

from __future__ import annotations

import dataclasses
import os
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from peftbench import cli, suite
from peftbench.errors import Unsupported
from peftbench.methods import METHODS, support
from peftbench.methods.strategies import refusal_of_cell
from peftbench.models import load
from peftbench.records import Devices
from peftbench.runner.checks import some_logits
from peftbench.training import batches, liger_logits, loop
from tests.support import trials
from tests.support.method_cells import attached

ON = {"logits": "liger"}
_NEEDS = [name for name in ("liger_kernel", "triton") if find_spec(name) is None]
interpreted = pytest.mark.skipif(
    bool(_NEEDS) or os.environ.get("TRITON_INTERPRET") != "1",
    reason=f"not installed: {', '.join(_NEEDS)}" if _NEEDS else "needs TRITON_INTERPRET=1",
)


def loss_and_gradients(learner, step, kind):
    learner.model.train()
    training = dataclasses.replace(learner.training, logits=kind)
    total = torch.zeros(())
    for batch in batches.micro_batches(step, training, learner.pad_id):
        with load.autocast(learner.precision, "cpu"):
            loss = loop.batch_loss(learner.model, batch) / batch.loss_tokens
        loss.backward()
        total += loss.detach()
    found = torch.cat([p.grad.flatten().clone() for p in learner.parameters if p.grad is not None])
    for parameter in learner.parameters:
        parameter.grad = None
    return total, found.float()


@interpreted
@pytest.mark.parametrize(("name", "precision"), [("full", "fp32"), ("lora", "fp32"), ("qlora", "nf4")])
def test_losses_and_gradients_are_those_of_whole_logits(name, precision, tiny, tmp_path):
    _, learner, plan = attached(tiny, name, precision, tmp_path, training=ON)
    with torch.no_grad():
        for parameter in learner.parameters:
            parameter.add_(torch.randn_like(parameter) * 0.05)
    expected, gradients = loss_and_gradients(learner, plan[0], "all")
    loss, found = loss_and_gradients(learner, plan[0], "liger")
    close = 1e-5 if precision == "fp32" else 2e-2
    torch.testing.assert_close(loss, expected, rtol=close, atol=0)
    assert float((found - gradients).norm() / gradients.norm()) < close
    few = batches.micro_batches(plan[0], dataclasses.replace(learner.training, logits="all"), learner.pad_id)[0]
    some_logits.check(learner, few)
    some_logits.check_gradients(learner, few)


@interpreted
def test_a_model_that_scales_its_logits_is_refused(tiny, tmp_path, monkeypatch):
    _, learner, plan = attached(tiny, "lora", "fp32", tmp_path, training=ON)
    forward = learner.model.base_model.model.forward

    def scaled(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = 0.5 * output.logits
        return output

    monkeypatch.setattr(learner.model.base_model.model, "forward", scaled)
    few = batches.micro_batches(plan[0], dataclasses.replace(learner.training, logits="all"), learner.pad_id)[0]
    with pytest.raises(Unsupported, match="gives other losses with logits: liger than with all of them"):
        some_logits.check(learner, few)


def test_other_gradients_are_refused(tiny, tmp_path, monkeypatch):
    def wrong(base, layer, hidden, targets, each):
        each_loss = nn.functional.cross_entropy(hidden.detach() @ layer.weight.T, targets, reduction="none")
        return each_loss if each else each_loss.sum() + 0 * hidden.sum()

    monkeypatch.setattr(liger_logits, "_operator", lambda: None)
    monkeypatch.setattr(liger_logits, "losses", wrong)
    _, learner, plan = attached(tiny, "full", "fp32", tmp_path, training=ON)
    few = batches.micro_batches(plan[0], dataclasses.replace(learner.training, logits="all"), learner.pad_id)[0]
    with pytest.raises(
        Unsupported, match=r"gives other gradients with logits: liger than with all .*; use logits: all"
    ):
        some_logits.check_gradients(learner, few)


def test_an_output_layer_that_computes_more_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(liger_logits, "_operator", lambda: None)
    with pytest.raises(
        Unsupported, match=r"logits: liger reads the weight of an output layer, .* peft's Linear, which"
    ):
        attached(tiny, "lora", "fp32", tmp_path, training=ON, options={"target_modules": ["q_proj", "lm_head"]})


def test_it_exists_on_one_gpu_with_liger_alone(tmp_path, monkeypatch, capsys):
    training = dataclasses.replace(trials.TRAINING, **ON)
    method = METHODS["lora"]
    found = support.refusal(method, "fp32", "cpu", training)
    assert found.message == "logits: liger does not train on cpu (only on cuda); use logits: chunked"
    monkeypatch.setattr(support, "find_spec", lambda _: None)
    assert "pip install liger-kernel" in support.refusal(method, "fp32", "cuda", training).message
    monkeypatch.setattr(support, "find_spec", lambda _: object())
    assert support.refusal(method, "fp32", "cuda", training) is None
    several = refusal_of_cell(method, "fp32", "cuda", training, {}, Devices("ddp", 2))
    assert "logits: liger was not tried on several devices" in several.message
    path = tmp_path / "s.yaml"
    path.write_text(
        "base: nano\ndevice: cuda\ntasks: [judge]\nseeds: 1\nmethods: {lora: {rank: 2}}\n"
        "train: {steps: 2, batch_size: 2, sequence_length: 32, logits: [all, liger]}\n"
    )
    assert not any(t.unsupported for t in suite.expand(suite.load(path), "cuda"))
    cli.main(["plan", str(path), "--memory"])
    said = " ".join(capsys.readouterr().out.split())
    assert "logits: liger: a trace has no kernels of liger" in said
