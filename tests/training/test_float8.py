"""Products in 8-bit floats: which layers have them, what they compute, and that trials count, predict and continue."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from peftbench import suite
from peftbench.errors import Unsupported, UserError
from peftbench.measure.ledger import account
from peftbench.methods import METHODS, method_of, peft_fields, support
from peftbench.models import load
from peftbench.models.precision import PRECISIONS
from peftbench.records import Devices
from peftbench.records.resolve import resolve
from peftbench.runner import prepare
from peftbench.runner.checks import first_step
from peftbench.suite import cell_check
from peftbench.training import float8, loop
from tests.runner.test_resuming import compare_with_unbroken
from tests.support import families, stored_bases, tiny_base, trials
from tests.support.method_cells import attached

ON = {"compute": "fp8"}
SUITE = """
base: {base}
seeds: 1
precision: [fp32, bf16, bf16-true, nf4]
tasks:
  colour: {{ kind: choice, train: {data}/colours.jsonl, test: {data}/colours.jsonl, choices: [red, green, blue],
             prompt: "the colour of {{{{ thing }}}} ?", target: "{{{{ colour }}}}" }}
train: {{ steps: 2, sequence_length: 32, learning_rate: 0.01, compute: [auto, fp8] }}
methods: {{ lora: }}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.set_num_threads(1)
    return tiny_base.make(tmp_path_factory.mktemp("float8") / "base")


@pytest.fixture
def torchao():
    """Skips a test where torchao is not installed."""
    if why := stored_bases.why_missing("torchao"):
        pytest.skip(why)


def tuned(base, method, precision="bf16", **options):
    """Return a base model with a method attached."""
    record = METHODS[method]
    found = load.load(base, PRECISIONS[precision], record.trains_base, True, device="cpu", trust_remote_code=False)
    made = trials.trial(base, base.parent / "data", method, precision, options=options)
    torch.manual_seed(0)
    model = resolve(record.attach)(found.model, made.rank, made.options)
    load.cast_trainable(model, PRECISIONS[precision])
    return model.train()


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Return the values of e4m3 nearest to rows of numbers, each row with a power of two as its scale, float32."""
    scale = 2.0 ** torch.floor(torch.log2(448 / x.float().abs().amax(-1, keepdim=True)))
    return (x.float() * scale).to(torch.float8_e4m3fn).float() / scale


class Watch(TorchDispatchMode):
    """Collects the types of the factors of each product."""

    def __init__(self):
        super().__init__()
        self.eight, self.others = [], 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(kind.__name__ == "Float8TrainingTensor" for kind in types):
            return NotImplemented  # its own code runs, and calls others
        name = function.overloadpacket.__name__
        if name == "_scaled_mm":
            self.eight.append({args[0].dtype, args[1].dtype})
        self.others += name in ("mm", "addmm")
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("trains", [False, True])
def test_a_product_and_its_gradients_are_those_of_rounded_factors(trains, torchao):
    torch.manual_seed(0)
    layer = nn.Linear(64, 48, bias=True, dtype=torch.bfloat16).requires_grad_(trains)
    model = nn.Sequential(layer)
    x = torch.randn(37, 64, dtype=torch.bfloat16, requires_grad=True)  # 37 tokens: no multiple of 16
    plain = layer(x).float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(float8, "products", lambda *_: {"0": layer})
        float8.use(model, "fp8", "cpu")
    y, g = layer(x), torch.randn(37, 48, dtype=torch.bfloat16)
    y.backward(g)
    w = layer.weight.detach()
    expected = (rounded(x.detach()) @ rounded(w).T).bfloat16() + layer.bias
    torch.testing.assert_close(y, expected, rtol=0.02, atol=0.02)
    assert 0.005 < ((y.float() - plain).norm() / plain.norm()) < 0.06
    torch.testing.assert_close(x.grad, (rounded(g) @ rounded(w.T.contiguous()).T).bfloat16(), rtol=0.02, atol=0.02)
    if trains:
        of_weight = rounded(g.T.contiguous()) @ rounded(x.detach().T.contiguous()).T
        torch.testing.assert_close(layer.weight.grad.float(), of_weight, rtol=0.03, atol=0.03)
    torch.testing.assert_close(layer(x[:5]), y[:5], rtol=0, atol=0)  # no token has a share in the scale of another
    layer.eval()
    assert torch.equal(layer(x).float(), plain)


@pytest.mark.parametrize(
    ("method", "precision", "options", "first"),
    [
        ("lora", "bf16", {}, 3),  # query, key and value of the first layer: nothing below trains
        ("lora", "bf16", {"lora_fa": True}, 3),
        ("full", "bf16", {}, 0),
        ("adapter", "bf16-true", {}, 4),
    ],
)
def test_a_step_multiplies_so_in_each_linear_layer_of_the_base_and_scoring_does_not(
    method, precision, options, first, base, torchao
):
    model, ids = tuned(base, method, precision, **options), torch.arange(3, 43).reshape(2, 20)

    def step(train):
        model.train(train)
        with Watch() as seen, load.autocast(PRECISIONS[precision], "cpu"):
            loss = model(input_ids=ids, labels=ids).loss
        if train:
            with seen:
                loss.backward()
        return float(loss), seen

    before, (_, plain) = step(False)[0], step(True)
    assert len(float8.products(model, "cpu")) == 21
    float8.use(model, "fp8", "cpu")
    after, seen = step(True)
    # of each layer the output, the gradient of its input and, by torchao also of a frozen one, of its weight
    assert seen.eight == [{torch.float8_e4m3fn}] * (21 + 2 * (21 - first))
    assert seen.others < plain.others - 21
    assert after != before
    assert step(False)[0] == before


def test_what_a_product_makes_meanwhile_is_counted(torchao):
    """For the gradient of its input torchao makes a float of 32 bits for each value of the result."""
    layer = nn.Linear(256, 16, bias=False, dtype=torch.bfloat16).requires_grad_(False)
    x = torch.randn(64, 256, dtype=torch.bfloat16, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(float8, "products", lambda *_: {"0": layer})
        float8.use(nn.Sequential(layer), "fp8", "cpu")
    with account(layer, False, {}) as book:
        y = layer(x)
        before = sum(book.live.values())
        y.backward(torch.ones_like(y))
    factors, result = 64 * 16 + 16 * 256, 64 * 256
    assert sum(book.peak.values()) - before >= factors + (4 + 2) * result


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("full", {"turns": "badam"}),
        ("full", {"layers": 1}),
        ("full", {"modules": ["mlp"]}),
        ("llama_adapter", {}),
        ("peft", {"peft_type": "GRALORA"}),
    ],
)
def test_all_layers_of_the_base_have_such_products_whatever_trains(method, options, base):
    assert len(float8.products(tuned(base, method, **options), "cpu")) == 21


@pytest.mark.parametrize("kind", peft_fields.CHANGED)
def test_a_tuner_that_multiplies_by_changed_weights_is_refused_by_plan_and_in_its_first_step(kind, base, tmp_path):
    options = {"peft_type": kind}
    why = support.refusal(method_of("peft", options), "bf16", "cuda", replace(trials.TRAINING, **ON))
    assert f"peft {kind} does not exist with compute: fp8, because it multiplies by weights" in why.message
    made = attached(base, "peft", "bf16", tmp_path, options=options)
    for layer in float8.products(made[1].model, "cpu").values():
        layer.forward = float8._Product(layer, nn.Linear(layer.in_features, layer.out_features, bias=False))
    with pytest.raises(Unsupported, match=r"multiplies by weights that it has changed.*self_attn"):
        first_step.check(made[1], made[0].model, METHODS["peft"], loop.step_batches(made[1], made[2][0])[0])


@pytest.mark.parametrize(
    ("method", "precision", "changes"),
    [
        ("lora", "bf16", {}),
        ("full", "bf16", {}),
        ("full", "bf16-true", {"gradient_checkpointing": True}),
        ("lora", "bf16", {"gradient_checkpointing": "selective"}),
        ("prompt_tuning", "bf16", {}),
    ],
)
def test_a_trial_takes_the_memory_that_is_predicted(method, precision, changes, base, tmp_path, torchao):
    made = trials.trial(base, tmp_path / "data", method, precision, training={**ON, **changes})
    tmp_path.joinpath("scratch").mkdir()
    row = trials.run(made, tmp_path / "scratch", predicts=True).row
    assert (row.status, row.message) == ("ok", None)
    assert row.moved_tensors == row.trainable_tensors > 0
    assert row.predicted_train_bytes == row.peak_train_bytes > 0


def test_an_interrupted_trial_equals_the_unbroken_one(base, tmp_path, torchao):
    given = {"training": {"steps": 9, **ON}, "inference": False}
    compare_with_unbroken(trials.trial(base, tmp_path / "data", "lora", "bf16", **given), tmp_path)


@pytest.mark.parametrize(
    ("family", "changes", "words"),
    [
        ("mixtral", {}, "the matrices of fused experts"),
        ("gpt2", {}, "have no plain linear layers"),
        ("llama", {"intermediate_size": 100}, "has 100 outputs and 64 inputs, which are not both multiples of 16"),
    ],
)
def test_a_base_whose_layers_have_no_such_product_is_refused_by_plan(family, changes, words, tmp_path):
    folder = tmp_path / "base"
    if changes:
        tiny_base.make(folder, **changes)
    else:
        families.make(folder, family)
    made = trials.trial(folder, tmp_path / "data", "full", "bf16", training=ON)
    assert words in prepare.impossible([made])[made.cell]
    assert prepare.impossible([replace(made, training=replace(made.training, compute="auto"))]) == {}


def test_a_gpu_without_such_products_is_refused(base, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A100")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    with pytest.raises(Unsupported, match=r"needs a GPU of compute capability 8\.9; A100 has 8\.0"):
        float8.products(tuned(base, "lora"), "cuda")


def cells(base, folder):
    trials.tasks(folder)
    path = folder / "x.yaml"
    path.write_text(SUITE.format(base=base, data=folder))
    return {(t.precision, t.training.compute): t.unsupported for t in suite.expand(suite.load(path, environ={}), "cpu")}


def test_other_precisions_and_several_devices_are_refused_before_anything_runs(base, tmp_path, monkeypatch):
    monkeypatch.setattr(cell_check, "find_spec", lambda _: True)
    found = cells(base, tmp_path)
    assert {cell for cell, why in found.items() if why} == {("fp32", "fp8"), ("nf4", "fp8")}
    assert "fp32 does not exist with compute: fp8" in found["fp32", "fp8"]
    assert "quantized weights are dequantized" in found["nf4", "fp8"]
    devices = Devices("ddp", 2)
    made = replace(trials.trial(base, tmp_path, "lora", "bf16", training=ON), devices=devices)
    from peftbench.methods.strategies import refusal_of_cell

    why = refusal_of_cell(METHODS["lora"], "bf16", "cpu", made.training, made.options, devices)
    assert "was not tried on several devices" in why.message


def test_without_its_package_a_suite_is_refused_with_what_to_install(base, tmp_path, monkeypatch):
    monkeypatch.setattr(cell_check, "find_spec", lambda name: None if name == "torchao" else find_spec(name))
    with pytest.raises(UserError, match=r"compute: fp8 needs the package torchao.*peftbench\[torchao\]"):
        cells(base, tmp_path)
