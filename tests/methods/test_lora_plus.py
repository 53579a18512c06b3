"""LoRA+: B trains at a multiple of A's learning rate, with every optimizer, and nothing else changes."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

from peftbench import suite
from peftbench.errors import Unsupported, UserError
from peftbench.measure.clock import Clock
from peftbench.methods import METHODS, lora_plus
from peftbench.records import OPTIMIZERS
from peftbench.runner import trial
from peftbench.training import loop, optimizers
from peftbench.training.batches import micro_batches
from tests.support import trials
from tests.support.method_cells import IDS, attached, logits


def learner_of(tiny, tmp_path, ratio, method="lora", optimizer="sgd", **options):
    """Return a learner with LoRA+ whose B is not zero, so that A has a gradient too, and its training batches."""
    precision = METHODS[method].default_precision
    _, learner, plan = attached(tiny, method, precision, tmp_path, options={"lora_plus_ratio": ratio, **options})
    torch.manual_seed(1)
    with torch.no_grad():
        for p in learner.parameters:
            p.add_(torch.randn_like(p).mul_(0.02))
    training = dataclasses.replace(learner.training, optimizer=optimizer, weight_decay=0.0, clip_norm=None)
    return dataclasses.replace(
        learner, training=training, optimizer=optimizers.make(learner.parameters, training)
    ), plan


def step(learner, plan, rate):
    """Take one step; return each parameter's update divided by its gradient's, by name."""
    named = {name: p for name, p in learner.model.named_parameters() if p.requires_grad}
    before = {name: p.detach().clone() for name, p in named.items()}
    gradients = {}
    for name, p in named.items():
        p.register_hook(lambda g, name=name: gradients.__setitem__(name, gradients.get(name, 0) + g.clone()))
    loop.step(learner, micro_batches(plan[0], learner.training, learner.pad_id), rate)
    return {name: (before[name] - p.detach(), gradients[name]) for name, p in named.items()}


@pytest.mark.parametrize(("method", "options"), [("lora", {}), ("lora", {"dora": True}), ("qlora", {})], ids=str)
def test_a_step_of_sgd_moves_b_by_the_ratio_times_the_rate_times_its_gradient(method, options, tiny, tmp_path):
    learner, plan = learner_of(tiny, tmp_path, 16.0, method, **options)
    moved = step(learner, plan, 2.0**-6)  # a power of two, so that the products are exact
    assert any(".lora_B." in name for name in moved)
    for name, (update, gradient) in moved.items():
        faster = ".lora_B." in name or "magnitude" in name
        assert float(gradient.abs().max()) > 0, name
        rate = 2.0**-6 * (16 if faster else 1)
        torch.testing.assert_close(update, rate * gradient, atol=2e-7, rtol=1e-4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_moves_and_decays_b_by_the_ratio(name):
    training = dataclasses.replace(trials.TRAINING, optimizer=name, weight_decay=0.0, learning_rate=1e-3)
    a, b, vector = (nn.Parameter(torch.ones(size)) for size in ((64, 64), (64, 64), (64,)))
    b.peftbench_rate_ratio = vector.peftbench_rate_ratio = 16.0
    for decay in (0.0, 0.5):
        made = optimizers.make([a, vector, b], dataclasses.replace(training, weight_decay=decay))
        assert [(g["lr"], g["weight_decay"]) for g in made.param_groups] == [
            (1e-3, decay),
            (16e-3, decay),
            (16e-3, 0.0),
        ]
        optimizers.set_rate(made, 1e-4)  # as the schedule does
        before = [p.detach().clone() for p in (a, b, vector)]
        for p in (a, b, vector):
            p.grad = torch.full_like(p, 0.0 if decay else 0.5)
        made.step()
        moved = [float((old - p.detach()).mean()) for p, old in zip((a, b, vector), before, strict=True)]
        if decay or not name.startswith("apollo"):  # whose steps are as long as a random projection says
            assert moved[1] / moved[0] == pytest.approx(16, rel=2e-2)
        if decay or not OPTIMIZERS[name].hidden_apart:  # else vectors have other steps than matrices
            assert moved[2] == pytest.approx(0.0 if decay else moved[1], rel=2e-2)


def test_another_ratio_gives_another_model_and_ratio_1_is_plain_lora(tiny, tmp_path):
    found = {}
    for ratio in (None, 1.0, 16.0):
        options = {} if ratio is None else {"lora_plus_ratio": ratio}
        _, learner, plan = attached(tiny, "lora", "fp32", tmp_path, options=options)
        loop.train(learner, plan[:3], [], Clock(), lambda *_: None)
        found[ratio] = logits(learner.model, "fp32", IDS)
    assert torch.equal(found[None], found[1.0])
    assert float((found[16.0] - found[1.0]).abs().max()) > 1e-2


def test_a_trial_records_the_ratio_and_the_rate_of_a(tiny, tmp_path):
    made = trials.trial(tiny, tmp_path, "lora", options={"lora_plus_ratio": 16.0})
    result = trial.run(trials.job(made, tmp_path), 0.0, lambda *_: None, lambda *_: None)
    assert (result.row.status, result.row.message) == ("ok", None)
    assert json.loads(result.row.settings_json)["options"]["lora_plus_ratio"] == 16.0
    assert max(s.learning_rate for s in result.steps) <= made.training.learning_rate


def cells(tmp_path, block):
    (tmp_path / "x.yaml").write_text(f"base: nano\ntasks: [compute]\nseeds: 1\nmethods:\n  {block}\n")
    return [t.cell for t in suite.expand(suite.load(tmp_path / "x.yaml"), "cpu")]


def test_the_ratio_is_an_axis_and_in_the_cells_name(tmp_path):
    assert cells(tmp_path, "lora: { lora_plus_ratio: [1, 16] }") == [
        "lora r=8 fp32",
        "lora r=8 lora_plus_ratio=16 fp32",
    ]
    assert cells(tmp_path, "qlora: { lora_plus_ratio: 16 }") == ["qlora r=8 lora_plus_ratio=16 nf4"]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("lora: { lora_plus_ratio: 0.5 }", "lora_plus_ratio: given 0.5"),
        ("adapter: { lora_plus_ratio: 16 }", "methods.adapter.lora_plus_ratio: unknown key"),
        ("full: { lora_plus_ratio: 16 }", "methods.full.lora_plus_ratio: unknown key"),
        ("peft: { peft_type: VERA, lora_plus_ratio: 16, learning_rate: 1 }", "unknown key of peft VERA"),
    ],
)
def test_it_is_refused_below_1_and_where_there_is_no_b(block, words, tmp_path):
    with pytest.raises(UserError, match=words):
        cells(tmp_path, block)


def test_without_a_b_that_trains_or_on_embeddings_the_ratio_is_refused():
    class One(nn.Module):
        def __init__(self, name):
            super().__init__()
            self.part = nn.ModuleDict({name: nn.ParameterDict({"default": torch.ones(2, 2)})})

    with pytest.raises(Unsupported, match="no effect: no B trains"):
        lora_plus.mark(One("lora_A"), 16.0)
    with pytest.raises(Unsupported, match="no rule for A and B of an embedding"):
        lora_plus.mark(One("lora_embedding_A"), 16.0)
