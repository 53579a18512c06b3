"""liger's kernels run in training steps alone, with the gradients of the model's own code, or they are refused.

A stand-in has liger's interface with torch's operators. liger's own kernels run on a CPU in triton's interpreter:
``TRITON_INTERPRET=1``, with liger-kernel and triton installed.
"""

from __future__ import annotations

import dataclasses
import os
import types
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from transformers.models.llama import modeling_llama

from peftbench import cli, suite
from peftbench.errors import Unsupported
from peftbench.methods import METHODS, support
from peftbench.methods.strategies import refusal_of_cell
from peftbench.planner import levers
from peftbench.records import Devices
from peftbench.report.derived import unequal_settings
from peftbench.runner.checks import liveness, replaced
from peftbench.training import effective, kernels, loop
from tests.support import trials
from tests.support.method_cells import attached

ON = {"kernels": "liger"}
RAN = "LigerRMSNorm 7, LigerSwiGLUMLP 3, liger_rotary_pos_emb"
"""What stands for parts of the tiny Llama's three layers, and of its last norm."""
_NEEDS = [name for name in ("liger_kernel", "triton") if find_spec(name) is None]
interpreted = pytest.mark.skipif(
    bool(_NEEDS) or os.environ.get("TRITON_INTERPRET") != "1",
    reason=f"not installed: {', '.join(_NEEDS)}" if _NEEDS else "needs TRITON_INTERPRET=1",
)
OWN_ROTATION = modeling_llama.apply_rotary_pos_emb
CALLS: list[str] = []


class LigerRMSNorm(nn.Module):
    """The same norm by other operators."""

    def forward(self, x):
        CALLS.append("norm")
        return nn.functional.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)


class LigerSwiGLUMLP(nn.Module):
    """The same gated product by other operators."""

    def forward(self, x):
        CALLS.append("mlp")
        gate = self.gate_proj(x)
        return self.down_proj(gate * torch.sigmoid(gate) * self.up_proj(x))


def liger_rotary_pos_emb(*args, **kwargs):
    CALLS.append("rope")
    return OWN_ROTATION(*args, **kwargs)


def apply_to_llama(model, cross_entropy=True, fused_linear_cross_entropy=True):
    assert not cross_entropy
    assert not fused_linear_cross_entropy
    modeling_llama.apply_rotary_pos_emb = liger_rotary_pos_emb
    modeling_llama.LlamaRMSNorm = LigerRMSNorm
    norms = [model.model.norm]
    for layer in model.model.layers:
        norms += [layer.input_layernorm, layer.post_attention_layernorm]
        layer.mlp.__dict__["forward"] = types.MethodType(LigerSwiGLUMLP.forward, layer.mlp)
    for norm in norms:
        norm.offset = 0.0
        norm.__dict__["forward"] = types.MethodType(LigerRMSNorm.forward, norm)
        norm.__dict__["_get_name"] = types.MethodType(lambda self: "LigerRMSNorm", norm)


@pytest.fixture
def stand_in(monkeypatch):
    """Return what stands for liger's module of patches."""
    CALLS.clear()
    found = types.SimpleNamespace(MODEL_TYPE_TO_APPLY_LIGER_FN={"llama": apply_to_llama})
    found._apply_liger_kernel_to_instance = lambda model, **given: found.MODEL_TYPE_TO_APPLY_LIGER_FN["llama"](
        model, **given
    )
    monkeypatch.setattr(kernels, "_patches", lambda: found)
    return found


@pytest.fixture
def interpreter(monkeypatch):
    """Let triton's interpreter pass floats to kernels as tensors, as its compiler does, and give it a root that it has.

    liger's norm converts floats, and takes its root from CUDA's library.
    """
    import numpy as np
    import triton.language as tl
    from liger_kernel.ops import rms_norm
    from triton.runtime import interpreter

    own = interpreter._implicit_cvt

    def convert(argument):
        if isinstance(argument, float):
            return tl.tensor(interpreter.TensorHandle(np.array([argument], np.float32), tl.float32), tl.float32)
        return own(argument)

    monkeypatch.setattr(interpreter, "_implicit_cvt", convert)
    monkeypatch.setattr(rms_norm, "rsqrt", lambda value: tl.math.rsqrt(value))  # which the interpreter replaces


def learner_of(tiny, tmp_path, name="lora", precision="fp32", **changes):
    training = {**ON, **changes.pop("training", {})}
    _, learner, plan = attached(tiny, name, precision, tmp_path, training=training, **changes)
    return dataclasses.replace(learner, kernels=kernels.make(learner.model, "liger")), plan


def check(learner, plan):
    with liveness.perturbed(learner.parameters):
        replaced.check(learner, loop.step_batches(learner, plan[0])[0])


def test_steps_alone_run_with_them_and_the_model_is_what_it_was(tiny, tmp_path, stand_in):
    learner, plan = learner_of(tiny, tmp_path)
    own = [dict(vars(module)) for module in learner.model.modules()]
    check(learner, plan)
    assert effective.columns(learner).kernel_modules == RAN
    CALLS.clear()
    loop.validation_loss(learner, plan[0])
    assert not CALLS
    loop.step(learner, loop.step_batches(learner, plan[0]), 1e-3)
    assert (CALLS.count("norm"), CALLS.count("mlp"), CALLS.count("rope")) == (7, 3, 3)
    assert [dict(vars(module)).keys() for module in learner.model.modules()] == [each.keys() for each in own]
    assert modeling_llama.apply_rotary_pos_emb is OWN_ROTATION
    assert modeling_llama.LlamaRMSNorm is not LigerRMSNorm


def test_without_them_the_column_says_none(tiny, tmp_path):
    _, learner, _ = attached(tiny, "lora", "fp32", tmp_path)
    assert kernels.make(learner.model, "none") is None
    assert effective.columns(learner).kernel_modules == "none"
    assert unequal_settings._DECIDED_BY["kernel"] == "kernels"


def test_a_trial_runs_with_them_and_its_losses_are_those_without(tiny, tmp_path, stand_in):
    one, other = (
        trials.run(trials.trial(tiny, tmp_path / "data", "lora", training=training, inference=False), tmp_path)
        for training in ({}, ON)
    )
    assert other.row.status == "ok", other.row.message
    assert (one.row.kernel_modules, other.row.kernel_modules) == ("none", RAN)
    assert [s.loss for s in other.steps] == pytest.approx([s.loss for s in one.steps], rel=1e-4)
    assert "mlp" in CALLS


def test_other_gradients_are_refused(tiny, tmp_path, stand_in, monkeypatch):
    monkeypatch.setattr(LigerSwiGLUMLP, "forward", lambda self, x: self.down_proj(self.up_proj(x)))
    learner, plan = learner_of(tiny, tmp_path)
    with pytest.raises(Unsupported, match=r"gradients of Llama.* with kernels are not those .* use kernels: none"):
        check(learner, plan)
    assert modeling_llama.apply_rotary_pos_emb is OWN_ROTATION


def test_a_module_that_does_not_run_is_refused(tiny, tmp_path, stand_in):
    learner, plan = learner_of(tiny, tmp_path)
    layer = learner.model.base_model.model.model.layers[1]
    norm = layer.input_layernorm
    layer.input_layernorm = type(norm)(64)  # as a method that trains a copy
    with pytest.raises(Unsupported, match=r"1 of 10 modules of Llama.* that have kernels do not run .*RMSNorm"):
        check(learner, plan)
    assert norm is not layer.input_layernorm


def test_what_a_method_put_in_the_place_of_a_module_is_not_replaced(tiny, tmp_path, stand_in):
    with pytest.raises(Unsupported, match=r"liger would replace peft's LNTuningLayer with code that does not know"):
        learner_of(tiny, tmp_path, "peft", options={"peft_type": "LN_TUNING"})


@pytest.mark.parametrize(
    ("patches", "message"),
    [
        ({}, "liger has no kernels for models of type llama; use kernels: none"),
        ({"llama": lambda model, **_: None}, "liger replaced nothing in LlamaForCausalLM"),
        ({"llama": lambda model, **_: model.not_there}, "liger refuses LlamaForCausalLM: .*not_there"),
    ],
)
def test_nothing_falls_back_without_a_word(patches, message, tiny, tmp_path, stand_in):
    stand_in.MODEL_TYPE_TO_APPLY_LIGER_FN = patches
    with pytest.raises(Unsupported, match=message):
        learner_of(tiny, tmp_path)


def test_they_exist_on_one_gpu_with_liger_alone(tmp_path, monkeypatch, capsys):
    training = dataclasses.replace(trials.TRAINING, **ON)
    method = METHODS["lora"]
    found = support.refusal(method, "fp32", "cpu", training)
    assert found.message == "kernels: liger does not train on cpu (only on cuda); use kernels: none"
    monkeypatch.setattr(support, "find_spec", lambda _: None)
    assert "pip install liger-kernel" in support.refusal(method, "fp32", "cuda", training).message
    monkeypatch.setattr(support, "find_spec", lambda _: object())
    assert support.refusal(method, "fp32", "cuda", training) is None
    several = refusal_of_cell(method, "fp32", "cuda", training, {}, Devices("ddp", 2))
    assert "kernels: liger was not tried on several devices" in several.message
    for other in ({"offload": "weights"}, {"compile": "layers"}, {"compute": "fp8"}):
        both = support.refusal(method, "bf16", "cuda", dataclasses.replace(training, **other))
        assert "does not exist with" in both.message
        assert "they were not tried together" in both.message
    path = tmp_path / "s.yaml"
    path.write_text(
        "base: nano\ndevice: cuda\ntasks: [judge]\nseeds: 1\nmethods: {lora: {rank: 2}}\n"
        "train: {steps: 2, batch_size: 2, sequence_length: 32, kernels: [none, liger]}\n"
    )
    assert not any(t.unsupported for t in suite.expand(suite.load(path), "cuda"))
    cli.main(["plan", str(path), "--memory"])
    said = " ".join(capsys.readouterr().out.split())
    assert "kernels: liger: a trace has no kernels of liger" in said


def test_what_makes_a_cell_fit_does_not_try_them(tiny, tmp_path):
    made = dataclasses.replace(trials.trial(tiny, tmp_path), device="cuda")
    assert not any("kernels" in change for found in levers._combinations(made) for change in found)


@interpreted
@pytest.mark.parametrize(
    ("name", "training"),  # in fp32: numpy, with which the interpreter computes, has no bf16
    [
        ("full", {}),
        ("lora", {"gradient_checkpointing": True}),
        ("lora", {"gradient_checkpointing": "selective"}),
        ("lora", {"packing": True, "logits": "liger"}),
    ],
)
def test_kernels_of_liger_have_the_gradients_of_the_models_own_code(name, training, tiny, tmp_path, interpreter):
    learner, plan = learner_of(tiny, tmp_path, name, training=training)
    check(learner, plan)
    assert effective.columns(learner).kernel_modules == RAN
    _, other, _ = attached(tiny, name, "fp32", tmp_path, training=training)
    losses = [
        [loop.step(each, loop.step_batches(each, step), 1e-3)[0] for step in plan[:2]] for each in (learner, other)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
