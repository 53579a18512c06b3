"""Quantized layers and optimizers' state without memory are, to the byte, those that bitsandbytes and torch make."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig

from peftbench.measure.ledger import account
from peftbench.models import load
from peftbench.models.precision import PRECISIONS
from peftbench.planner import fake
from peftbench.planner.records import Pass
from peftbench.records import OPTIMIZERS
from peftbench.training import optimizers
from tests.support import stored_bases, tiny_base, trials
from tools.validation.planner_accuracy import compare


def described(module: nn.Module) -> dict[str, tuple]:
    """Name, type, shape and strides of every parameter; of the quantization state in its order."""
    found = {n: (type(p).__name__, p.dtype, p.shape, p.stride()) for n, p in module.named_parameters()}
    state = [(t.dtype, t.shape, t.stride()) for t in load.quantization_tensors(module)]
    return found | {f"state {index}": entry for index, entry in enumerate(state)}


def real_base(folder: Path, precision: str, double: bool) -> load.Loaded:
    return load.load(folder, PRECISIONS[precision], False, double, device="cpu", trust_remote_code=False)


def fake_base(folder: Path, precision: str, double: bool):
    trial = trials.trial(folder, folder / "tasks", "qlora", options={"double_quantization": double})
    return fake.base(trial, AutoConfig.from_pretrained(folder), PRECISIONS[precision])


QUANTIZED = [("nf4", True), ("nf4", False), ("fp4", True), ("fp4-fp32", False), ("int8", True), ("int8-fp32", True)]


@pytest.mark.parametrize(("precision", "double"), QUANTIZED)
def test_a_quantized_base_without_weights_has_the_real_ones_tensors(precision, double, tiny):
    real, made = real_base(tiny, precision, double), fake_base(tiny, precision, double)
    assert described(made) == described(real.model)
    assert sum("state" in name for name in described(made)) >= 21
    assert sum(map(load.parameter_count, made.parameters())) == real.parameters


@pytest.mark.parametrize("kind", ["nf4", "int8", *stored_bases.TORCHAO])
def test_a_stored_base_without_weights_has_the_tensors_of_its_files(kind, tiny, tmp_path):
    if why := stored_bases.why_missing(kind):
        pytest.skip(why)
    folder = stored_bases.make(tiny, tmp_path / kind, kind)
    real, made = real_base(folder, "stored", True), fake_base(folder, "stored", True)
    assert described(made) == described(real.model)
    assert sum(map(load.parameter_count, made.parameters())) == real.parameters


@pytest.mark.parametrize(("precision", "double"), QUANTIZED)
def test_a_quantized_layer_keeps_and_saves_what_the_real_one_does(precision, double, tiny):
    def booked(base) -> list[tuple[dict[str, int], dict[str, int]]]:
        layer = base.model.layers[0].mlp.gate_proj.train()
        x = torch.randn(5, 7, 64, dtype=torch.bfloat16, requires_grad=True)
        with account(layer, False, {}) as book:
            y = layer(x)
            forward = dict(book.live)
            y.sum().backward()
            return [(forward, book.peak), (dict(book.live), {})]

    real = booked(real_base(tiny, precision, double).model)
    made = fake_base(tiny, precision, double)
    with fake.fake_tensors(True), fake.Answers():
        fake.materialize(made)
        assert booked(made) == real
    assert real[0][0]["quantization_state"] > 0


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_an_optimizers_state_on_fake_tensors_is_the_real_one(name):
    def state() -> list[list[tuple]]:
        shapes = [(80, 1300), (64, 64), (7,), ()]
        parameters = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
        made = optimizers.make(parameters, dataclasses.replace(trials.TRAINING, optimizer=name))
        for parameter in parameters:
            parameter.grad = torch.zeros_like(parameter)
        made.step()
        shapes = [(k, v.dtype, v.shape) for p in parameters for k, v in made.state[p].items() if hasattr(v, "shape")]
        return sorted(shapes, key=str)

    real = state()
    with fake.fake_tensors(True), fake.Answers():
        assert state() == real
    assert (real == []) is (name in ("sgd", "lomo"))


def test_a_packed_weight_goes_by_bitsandbytes_name(tiny):
    for precision, name in (("nf4", "Params4bit"), ("int8", "Int8Params")):
        made = fake_base(tiny, precision, True)
        with fake.fake_tensors(True):
            fake.materialize(made)
        weight = made.model.layers[0].mlp.gate_proj.weight
        assert (type(weight).__name__, isinstance(weight, nn.Parameter)) == (name, True)


def test_tied_and_shared_storages_stay_shared(tiny):
    made = fake_base(tiny, "int8", True)
    with fake.fake_tensors(True):
        fake.materialize(made)
        assert made.lm_head.weight is made.model.embed_tokens.weight
        weight = made.model.layers[0].mlp.gate_proj.weight
        assert weight.CB.untyped_storage()._cdata == weight.untyped_storage()._cdata


def test_a_base_stored_in_4_bits_is_planned_with_the_dtype_that_its_layers_multiply_in(tmp_path):
    """Not with that of its files, which is float32 unless who stored it said otherwise."""
    plain = tiny_base.make(tmp_path / "plain", intermediate_size=2048)
    folder = stored_bases.make(plain, tmp_path / "nf4", "nf4")
    found, _, counted = compare(
        folder,
        "lora",
        "stored",
        [Pass(4, 24)],
        training={"gradient_checkpointing": True},
        options={"target_modules": ["q_proj"]},
    )
    assert found.peak_bytes == counted.peak_bytes
    config = AutoConfig.from_pretrained(folder)
    before = config.to_dict()
    fake.base(trials.trial(folder, tmp_path / "tasks", precision="stored"), config, PRECISIONS["stored"])
    assert config.to_dict() == before
