"""For every method, every optimizer decays the same tensors by the same factor, and clips and warms up alike."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from peftbench.methods import METHODS
from peftbench.models import load
from peftbench.models.precision import PRECISIONS
from peftbench.records import OPTIMIZERS, Head
from peftbench.training import batches, loop, optimizers
from tests.support import trials
from tests.support.method_cells import TRAINED, attached, loaded


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_without_gradient_a_step_shrinks_matrices_by_rate_times_decay_but_not_vectors(name):
    matrix, vector = nn.Parameter(torch.ones(8, 8)), nn.Parameter(torch.ones(8))
    training = replace(trials.TRAINING, optimizer=name, weight_decay=0.5, learning_rate=0.1)
    made = optimizers.make([matrix, vector], training)
    for p in (matrix, vector):
        p.grad = torch.zeros_like(p)
    made.step()
    torch.testing.assert_close(matrix.detach(), torch.full((8, 8), 0.95))
    assert torch.equal(vector.detach(), torch.ones(8))


@pytest.mark.parametrize("name", TRAINED)
def test_the_same_kinds_of_tensors_decay_for_every_method(name, tiny, tmp_path):
    _, learner, _ = attached(tiny, name, METHODS[name].default_precision, tmp_path)
    groups = optimizers.make(learner.parameters, replace(learner.training, weight_decay=0.1)).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    named = {n: p for n, p in learner.model.named_parameters() if p.requires_grad}
    assert len(decays) == len(named)
    for parameter_name, p in named.items():
        spared = any(part in parameter_name for part in ("norm", "bias", "llama_adapter.gate"))
        if name not in METHODS.own:  # another package's names are its own
            spared = p.ndim < 2
        assert decays[id(p)] == (0.0 if spared else 0.1), parameter_name


def test_the_gates_of_every_head_do_not_decay(tiny):
    from peftbench.methods import llama_adapter

    tuned = llama_adapter.attach(loaded(tiny, "llama_adapter", "fp32").model, 4, {"layers": 2, "gate": "per_head"})
    named = {n: p for n, p in tuned.named_parameters() if p.requires_grad}
    groups = optimizers.make(list(named.values()), replace(trials.TRAINING, weight_decay=1.0)).param_groups
    spared = {id(p) for group in groups if not group["weight_decay"] for p in group["params"]}
    assert {n.rpartition(".")[2] for n, p in named.items() if id(p) in spared} == {"gate"}
    assert sum(id(p) in spared for p in named.values()) == 2


def test_doras_magnitudes_do_not_decay(tiny):
    from peftbench.methods import lora

    options = {"alpha": 8.0, "dropout": 0.0, "target_modules": ["q_proj"], "dora": True}
    tuned = lora.attach(loaded(tiny, "lora", "fp32").model, 4, options)
    named = {id(p): n for n, p in tuned.named_parameters() if p.requires_grad}
    parameters = [p for p in tuned.parameters() if p.requires_grad]
    groups = optimizers.make(parameters, replace(trials.TRAINING, weight_decay=1.0)).param_groups
    spared = [named[id(p)] for group in groups if not group["weight_decay"] for p in group["params"]]
    assert len(spared) == 3
    assert all("magnitude" in n for n in spared)


def test_adamw_is_also_fused_on_the_cpu():
    made = optimizers.make([nn.Parameter(torch.ones(2, 2))], trials.TRAINING)
    assert made.defaults["fused"] is True
    for dtype in (torch.bfloat16, torch.float16):
        p = nn.Parameter(torch.ones(2, 2, dtype=dtype))
        p.grad = torch.ones_like(p)
        optimizers.make([p], trials.TRAINING).step()
        assert float(p.detach()[0, 0]) < 1


@pytest.mark.parametrize("clip", [None, 0.5])
def test_gradients_are_clipped_by_their_norm_over_all_tensors(clip, tiny, tmp_path):
    base, learner, plan = attached(tiny, "lora", "fp32", tmp_path)
    training = replace(learner.training, optimizer="sgd", clip_norm=clip)
    learner = replace(learner, training=training, optimizer=optimizers.make(learner.parameters, training))
    before = [p.detach().clone() for p in learner.parameters]
    batch = batches.collate(plan[0], base.tokenizer.pad_token_id)
    _, norm = loop.step(learner, [batch], 0.01)
    moved = torch.stack([(p.detach() - b).norm() for p, b in zip(learner.parameters, before, strict=True)]).norm()
    assert norm > 0.5
    assert float(moved) == pytest.approx(0.01 * (clip or norm), rel=1e-3)


def test_only_with_warm_up_the_first_step_has_less_than_the_full_learning_rate():
    rates = [optimizers.learning_rate(replace(trials.TRAINING, warmup_ratio=w), 0, 20) for w in (0.0, 0.25)]
    assert rates == [trials.TRAINING.learning_rate, trials.TRAINING.learning_rate / 5]


def test_the_matrix_of_a_head_for_whole_texts_is_no_hidden_one(tiny):
    """``get_output_embeddings`` of such a model gives none."""
    asked = {"device": "cpu", "trust_remote_code": False, "head": Head(3, 0)}
    model = load.load(tiny, PRECISIONS["fp32"], True, True, **asked).model
    parameters = [p.requires_grad_() for p in model.parameters()]
    made = optimizers.make(parameters, replace(trials.TRAINING, optimizer="muon"), model)
    hidden = {id(p) for group in made.param_groups if group[optimizers.HIDDEN] for p in group["params"]}
    apart = {name for name, p in model.named_parameters() if p.ndim == 2 and id(p) not in hidden}
    assert apart == {"model.embed_tokens.weight", "score.weight"}
