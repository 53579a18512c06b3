"""Each optimizer keeps the state of its record to the byte, continues from a file bit for bit, and is planned."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from peftbench.measure import optimizer_state
from peftbench.measure.clock import Clock
from peftbench.measure.ledger import account
from peftbench.measure.optimizer_state import flat
from peftbench.methods import METHODS
from peftbench.models.precision import PRECISIONS
from peftbench.planner.records import Pass
from peftbench.records import OPTIMIZERS
from peftbench.runner import trial
from peftbench.runner.checks import first_step
from peftbench.training import (
    accounting,
    apollo,
    batches,
    effective,
    flops,
    loop,
    optimizers,
    saved_state,
    several_optimizers,
)
from peftbench.training.loop import Course
from tests.support import tiny_base, trials
from tests.support.method_cells import attached
from tools.validation.planner_accuracy import compare

SHAPE = (80, 1300)
"""104,000 values in 407 blocks of 256, the last one with 64."""
BY_HAND = {
    "adamw": 832_004,  # 2 x 4 x 104,000, and the step
    "adamw_8bit": 211_256,  # 2 x (104,000 + 4 x 407)
    "paged_adamw": 832_000,
    "paged_adamw_8bit": 211_256,
    "sgd": 0,
    "adafactor": 5_524,  # 4 x (80 + 1300), and the root mean square
    "lion": 416_000,
    "lion_8bit": 105_628,  # 104,000 + 4 x 407
    "paged_lion": 416_000,
    "paged_lion_8bit": 105_628,
    "ademamix": 1_248_000,  # 3 x 4 x 104,000
    "ademamix_8bit": 316_884,  # 3 x (104,000 + 4 x 407)
    "muon": 416_000,
    "schedule_free_adamw": 832_000,
    "galore_adamw": 857_600,  # rank 80: 2 x 4 x 80 x 1300 of moments, 4 x 80 x 80 of the projection
    "apollo": 832_004,  # rank 80: 2 x 4 x 80 x 1300 of moments, and the norm
    "apollo_mini": 10_404,  # 2 x 4 x 1300 of moments, and the norm
    "lomo": 0,
    "adafactor_in_backward": 5_524,
}
"""Bytes of state for a matrix of ``SHAPE`` in fp32."""


def stepped(name: str, shapes, dtype=torch.float32):
    """Return parameters after a step, and their optimizer."""
    parameters = [nn.Parameter(torch.ones(shape, dtype=dtype)) for shape in shapes]
    made = optimizers.make(parameters, replace(trials.TRAINING, optimizer=name))
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    made.step()
    return parameters, made


def state_bytes(made) -> int:
    """Return the bytes of an optimizer's state, each storage once."""
    tensors = [v for entry in made.state.values() for v in flat(entry).values() if isinstance(v, torch.Tensor)]
    return sum({s._cdata: s.nbytes() for s in (t.untyped_storage() for t in tensors)}.values())


def test_there_is_a_record_for_each_function_and_a_case_for_each_record():
    assert set(OPTIMIZERS) == set(optimizers.MAKERS) == set(BY_HAND)
    assert all(name == record.name for name, record in OPTIMIZERS.items())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_of_a_matrix_is_what_was_computed_by_hand(name):
    record = OPTIMIZERS[name]
    assert record.state_bytes(SHAPE, 4) == BY_HAND[name]
    assert state_bytes(stepped(name, [SHAPE])[1]) == BY_HAND[name] + record.shared_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_of_tensors_of_all_kinds_is_that_of_the_record(name, dtype):
    record, shapes = OPTIMIZERS[name], [(64, 64), SHAPE, (63, 65), (5, 6, 7), (5000,), (7,), ()]
    expected = sum(record.state_bytes(shape, dtype.itemsize) for shape in shapes) + record.shared_bytes
    assert state_bytes(stepped(name, shapes, dtype)[1]) == expected


def trained(tiny, folder, name: str):
    """Return a learner for full fine-tuning with an optimizer, and the examples of four steps."""
    training = {"optimizer": name, "steps": 4, "weight_decay": 0.1, "learning_rate": 1e-3, "validate_every": 3}
    _, learner, plan = attached(tiny, "full", "fp32", folder, training=training)
    return learner, plan


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_that_continues_from_a_file_is_the_unbroken_one_and_takes_the_same_memory(name, tiny, tmp_path):
    whole, plan = trained(tiny, tmp_path / "whole", name)
    loop.train(whole, plan, plan[0], Clock(), lambda *_: None)
    first, _ = trained(tiny, tmp_path / "first", name)
    (tmp_path / "saved").mkdir()

    def killed(course: Course) -> None:
        if len(course.rows) == 2:
            saved_state.write(tmp_path / "saved", first, course, {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(first, plan, plan[0], Clock(), lambda *_: None, after_each=killed)
    second, _ = trained(tiny, tmp_path / "second", name)
    course = saved_state.read(tmp_path / "saved").restore(second)
    loop.train(second, plan, plan[0], Clock(), lambda *_: None, course)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters, second.parameters, strict=True))
    settings = optimizer_state.settings(second.optimizer)
    books = [accounting.account_step(learner, plan[0], True) for learner in (whole, second)]
    assert books[0].peak == books[1].peak
    assert optimizer_state.settings(second.optimizer) == settings == optimizer_state.settings(whole.optimizer)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters, second.parameters, strict=True))
    expected = sum(_state_of(OPTIMIZERS[name], p, whole.model) for p in whole.parameters)
    assert books[0].peak["optimizer"] == expected + OPTIMIZERS[name].shared_bytes


def _state_of(record, parameter, model) -> int:
    """Return the bytes of a record for a parameter, which for an embedding or a head are those of a long vector."""
    ends = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    end = record.hidden_apart and any(parameter is each for each in ends)
    return record.state_bytes((parameter.numel(),) if end else tuple(parameter.shape), 4)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_plan_has_the_state_and_the_temporaries_of_the_real_step(name, tiny):
    training = {"optimizer": name, "clip_norm": None}
    found, _, book = compare(tiny, "full", "bf16", [Pass(4, 24)], training=training)
    assert dict(found.categories) == book.peak


def test_lion_moves_by_the_sign_of_its_momentum_and_the_gradient():
    """Algorithm 2 of arXiv:2302.06675, with beta1 0.9 and beta2 0.99."""
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(80, 80))
    made = optimizers.make([p], replace(trials.TRAINING, optimizer="lion", learning_rate=0.01, weight_decay=0.1))
    expected, momentum = p.detach().clone(), torch.zeros(80, 80)
    for _ in range(3):
        gradient = torch.randn(80, 80)
        p.grad = gradient.clone()
        made.step()
        direction = (0.9 * momentum + 0.1 * gradient).sign()
        expected = expected - 0.01 * (direction + 0.1 * expected)
        momentum = 0.99 * momentum + 0.01 * gradient
    torch.testing.assert_close(p.detach(), expected, rtol=1e-6, atol=1e-7)


def test_ademamix_adds_a_slower_mean_to_adams_numerator():
    """Equation 2 of arXiv:2409.03137, with betas 0.9, 0.999 and 0.9999 and alpha 5."""
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(80, 80))
    made = optimizers.make([p], replace(trials.TRAINING, optimizer="ademamix", learning_rate=0.01, weight_decay=0.1))
    expected = p.detach().double()
    fast, slow, square = (torch.zeros(80, 80, dtype=torch.float64) for _ in range(3))
    for step in range(1, 4):
        p.grad = torch.randn(80, 80)
        gradient = p.grad.double()
        fast, slow = 0.9 * fast + 0.1 * gradient, 0.9999 * slow + 0.0001 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        made.step()
        root = (square / (1 - 0.999**step)).sqrt() + 1e-8
        expected = expected - 0.01 * ((fast / (1 - 0.9**step) + 5 * slow) / root + 0.1 * expected)
    torch.testing.assert_close(p.detach().double(), expected, rtol=1e-4, atol=1e-5)


def test_muon_moves_hidden_matrices_by_an_orthogonal_matrix_and_the_rest_as_adamw():
    """Five Newton-Schulz steps of the momentum with the gradient added, scaled by 0.2 sqrt(max(m, n))."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"tokens": nn.Embedding(30, 20), "wide": nn.Linear(20, 50)})
    settings = replace(trials.TRAINING, learning_rate=0.01, weight_decay=0.1)
    gradients = [torch.randn_like(p) for p in model.parameters()]
    names = [name for name, _ in model.named_parameters()]
    before = [p.detach().clone() for p in model.parameters()]
    found = {}
    for optimizer in ("adamw", "muon"):
        for p, gradient, old in zip(model.parameters(), gradients, before, strict=True):
            p.grad = gradient.clone()
            p.data.copy_(old)
        optimizers.make(list(model.parameters()), replace(settings, optimizer=optimizer), model).step()
        found[optimizer] = dict(zip(names, [p.detach().clone() for p in model.parameters()], strict=True))
    for name in ("tokens.weight", "wide.bias"):
        assert torch.equal(found["adamw"][name], found["muon"][name])
    place = names.index("wide.weight")
    x = (gradients[place] * (1 - 0.95**2)).bfloat16().T  # the first momentum is 0.05 of the gradient
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    expected = before[place] * (1 - 0.01 * 0.1) - 0.01 * 0.2 * 50**0.5 * x.T.float()
    moved, meant = (each - before[place] for each in (found["muon"]["wide.weight"], expected))
    assert float((moved - meant).norm() / meant.norm()) < 0.05  # the products are in bf16
    assert float(torch.linalg.matrix_norm(x.float(), 2)) < 1.3


def test_schedule_free_takes_gradients_near_the_mean_that_it_scores():
    """Equations of section 4 of arXiv:2405.15682: z takes Adam's step, x is its mean, y lies between them."""
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(6, 5))
    settings = replace(trials.TRAINING, optimizer="schedule_free_adamw", learning_rate=0.01, weight_decay=0.0)
    made = optimizers.make([p], settings)
    z = x = p.detach().double()
    square = torch.zeros_like(x)
    for step in range(1, 5):
        y = 0.1 * z + 0.9 * x
        torch.testing.assert_close(p.detach().double(), y, atol=1e-6, rtol=0)
        p.grad = torch.randn(6, 5)
        gradient = p.grad.double()
        square = 0.999 * square + 0.001 * gradient**2
        z = z - 0.01 * gradient / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
        x = (1 - 1 / step) * x + z / step
        made.step()
    optimizers.to_evaluation(made)
    torch.testing.assert_close(p.detach().double(), x, atol=1e-6, rtol=0)
    optimizers.to_training(made)
    torch.testing.assert_close(p.detach().double(), 0.1 * z + 0.9 * x, atol=1e-6, rtol=0)


def test_galore_takes_adams_step_in_the_space_of_the_gradients_first_singular_vectors(monkeypatch):
    """Algorithm 2 of arXiv:2403.03507 for a matrix with more columns than rows, at rank 3 and scale 0.25."""
    torch.manual_seed(0)
    monkeypatch.setattr(optimizers, "GALORE_RANK", 3)
    p = nn.Parameter(torch.randn(6, 9))
    settings = replace(trials.TRAINING, optimizer="galore_adamw", learning_rate=0.01, weight_decay=0.1)
    made = optimizers.make([p], settings)
    expected, m, v = p.detach().double(), torch.zeros(3, 9).double(), torch.zeros(3, 9).double()
    projection = None
    for step in range(1, 4):
        p.grad = torch.randn(6, 9)
        gradient = p.grad.double()
        if projection is None:
            projection = torch.linalg.svd(gradient, full_matrices=False)[0][:, :3]
        low = projection.T @ gradient
        m, v = 0.9 * m + 0.1 * low, 0.999 * v + 0.001 * low**2
        made.step()
        direction = (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-6 / (1 - 0.999**step) ** 0.5)
        expected = (expected - 0.01 * 0.25 * projection @ direction) * (1 - 0.01 * 0.1)
    torch.testing.assert_close(p.detach().double(), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("rows", "columns"), [(6, 9), (9, 6)])
@pytest.mark.parametrize("name", ["apollo", "apollo_mini"])
def test_apollo_scales_the_whole_gradient_as_adam_scales_its_projection(name, rows, columns, monkeypatch):
    """Algorithm 1 of arXiv:2412.05270, with new projections every two steps and weight decay."""
    rank, scale = (6, 1.0) if name == "apollo" else (1, 128**0.5)
    monkeypatch.setattr(apollo, "GAP", 2)
    torch.manual_seed(3)
    p = nn.Parameter(torch.randn(rows, columns))
    made = optimizers.make([p], replace(trials.TRAINING, optimizer=name, learning_rate=0.01, weight_decay=0.1))
    expected, m, v, before = p.detach().double(), 0.0, 0.0, None
    random_state = torch.get_rng_state()
    gradients = [torch.randn(rows, columns) * size for size in (1.0, 4.0, 0.1)]
    torch.set_rng_state(random_state)
    for step, gradient in enumerate(gradients, start=1):
        p.grad = gradient.clone()
        wide = gradient.double() if rows < columns else gradient.double().T
        projection = torch.randn(rank, 6, generator=torch.Generator().manual_seed(3 + (step - 1) // 2)) / rank**0.5
        low = projection.double() @ wide
        m, v = 0.9 * m + 0.1 * low, 0.999 * v + 0.001 * low**2
        adapted = (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
        factor = adapted.norm(dim=0) / low.norm(dim=0) if name == "apollo" else adapted.norm() / low.norm()
        move = scale * wide * factor
        if before is not None and move.norm() > 1.01 * before:
            move = move * 1.01 * before / move.norm()
        before = move.norm()
        expected = expected * (1 - 0.01 * 0.1) - 0.01 * (move if rows < columns else move.T)
        made.step()
    torch.testing.assert_close(p.detach().double(), expected, atol=1e-5, rtol=0)
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize(("released", "usual"), [("lomo", "sgd"), ("adafactor_in_backward", "adafactor")])
def test_a_step_in_the_backward_pass_is_the_usual_one_with_one_gradient_at_a_time(released, usual, tiny, tmp_path):
    found, peaks = {}, {}
    for name in (released, usual):
        training = {"optimizer": name, "steps": 3, "clip_norm": None, "learning_rate": 1e-2, "weight_decay": 0.1}
        _, learner, plan = attached(tiny, "full", "fp32", tmp_path / name, training=training)
        steps = loop.train(learner, plan, [], Clock(), lambda *_: None).steps
        seen = [number for s in steps for number in (s.loss, s.gradient_norm)]
        found[name] = seen, [p.detach().clone() for p in learner.parameters]
        peaks[name] = accounting.account_step(learner, plan[0][:1], True).peak
        sizes = sorted(p.numel() * 4 for p in learner.parameters)
        assert all(p.grad is None for p in learner.parameters)
    assert found[released][0] == pytest.approx(found[usual][0])
    for a, b in zip(found[released][1], found[usual][1], strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert peaks[released]["gradients"] <= sizes[-1] < sum(sizes) / 2 <= peaks[usual]["gradients"]
    assert sum(peaks[released].values()) < sum(peaks[usual].values())


def test_a_step_in_the_backward_pass_adds_up_no_micro_batches(tiny, tmp_path):
    training = {"optimizer": "lomo", "clip_norm": None, "micro_batch_size": 2}
    _, learner, plan = attached(tiny, "full", "fp32", tmp_path, training=training)
    before = [p.detach().clone() for p in learner.parameters]
    with pytest.raises(ValueError, match="a step in the backward pass has one micro-batch; given 2"):
        loop.step(learner, loop.step_batches(learner, plan[0]), 0.1)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.parameters, strict=True))


def test_a_gradient_of_zero_is_freed_but_has_not_reached_its_parameter():
    alive, dead = (nn.Parameter(torch.ones(3)) for _ in range(2))
    made = optimizers.make([alive, dead], replace(trials.TRAINING, optimizer="lomo"))
    with several_optimizers.dropping(made, [alive, dead]) as reached:
        (alive.sum() + 0 * dead.sum()).backward()
        assert alive.grad is dead.grad is None
    assert reached == {alive}


@pytest.mark.parametrize("name", ["lomo", "galore_adamw"])
def test_a_deep_model_is_planned_to_the_byte_from_a_shallow_one(name, tmp_path):
    folder = tiny_base.make(tmp_path / "base", num_hidden_layers=9)
    training = {"optimizer": name, "clip_norm": None}
    found, _, book = compare(folder, "full", "bf16", [Pass(4, 24)], training=training)
    assert dict(found.categories) == book.peak


def test_the_scored_weights_of_schedule_free_are_the_mean_that_was_validated(tiny, tmp_path):
    training = {"optimizer": "schedule_free_adamw", "steps": 4, "validate_every": 1, "learning_rate": 1e-2}
    _, learner, plan = attached(tiny, "full", "fp32", tmp_path, training=training)
    trace = loop.train(learner, plan, plan[0], Clock(), lambda *_: None)
    assert loop.validation_loss(learner, plan[0]) == pytest.approx(trace.steps[-1].validation_loss, rel=1e-6)
    optimizers.to_training(learner.optimizer)
    assert loop.validation_loss(learner, plan[0]) != pytest.approx(trace.steps[-1].validation_loss, rel=1e-3)


@pytest.mark.parametrize("name", ["lomo", "schedule_free_adamw"])
def test_a_trial_runs_to_its_end_with_checks_work_and_memory(name, tiny, tmp_path):
    training = {"optimizer": name, "clip_norm": None, "schedule": "constant", "steps": 6, "learning_rate": 1e-2}
    made = trials.trial(tiny, tmp_path, "full", training=training)
    row = trial.run(trials.job(made, tmp_path), 0.0, lambda *_: None, lambda *_: None).row
    assert (row.status, row.message) == ("ok", None)
    assert row.peak_optimizer_bytes == (0 if name == "lomo" else 2 * 4 * row.trainable_parameters)
    assert row.optimizer_class.startswith({"lomo": "torch SGD in the backward pass"}.get(name, "schedulefree"))
    assert row.last_loss < row.first_loss


def test_proofs_and_work_of_a_step_in_the_backward_pass_hold_one_gradient_at_a_time_too(tiny, tmp_path):
    training = {"optimizer": "lomo", "clip_norm": None}
    base, learner, plan = attached(tiny, "full", "fp32", tmp_path, training=training)
    largest = max(p.numel() * 4 for p in learner.parameters)
    batch = batches.collate(plan[0][:1], learner.pad_id)
    before = [p.detach().clone() for p in learner.parameters]
    for run in (
        lambda: flops.passes(learner, plan[0][:1]),
        lambda: first_step.check(learner, base.model, METHODS["full"], batch),
    ):
        with account(learner.model, True, learner.optimizer.state) as counted:
            run()
        assert counted.peak["gradients"] <= largest
    assert all(torch.equal(a, b) for a, b in zip(before, learner.parameters, strict=True))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_row_tells_the_types_of_all_state_that_an_optimizer_keeps(name):
    """Also of state that is smaller than its parameter: rows and columns, or a space of low rank."""
    parameters, made = stepped(name, [(80, 1300)])
    given = {"precision": PRECISIONS["fp32"], "device": "cpu", "parameters": parameters}
    learner = SimpleNamespace(model=nn.Module(), optimizer=made, compiled=None, kernels=None, **given)
    learner.model.config = None
    told = effective.columns(learner).optimizer_state_dtypes
    assert told == ("none" if BY_HAND[name] == 0 else "uint8" if name.endswith("8bit") else "float32")
