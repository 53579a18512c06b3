"""Each optimizer keeps the state of its record to the byte, continues from a file bit for bit, and is planned."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from peftbench.measure.clock import Clock
from peftbench.planner.records import Pass
from peftbench.records import OPTIMIZERS
from peftbench.training import accounting, loop, optimizers, saved_state
from peftbench.training.loop import Course
from tests.support import trials
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
    "ademamix": 1_248_000,  # 3 x 4 x 104,000
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
    tensors = [v for entry in made.state.values() for v in entry.values() if isinstance(v, torch.Tensor)]
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
    training = {"optimizer": name, "steps": 4, "weight_decay": 0.1, "learning_rate": 1e-3}
    _, learner, plan = attached(tiny, "full", "fp32", folder, training=training)
    return learner, plan


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_that_continues_from_a_file_is_the_unbroken_one_and_takes_the_same_memory(name, tiny, tmp_path):
    whole, plan = trained(tiny, tmp_path / "whole", name)
    loop.train(whole, plan, [], Clock(), lambda *_: None)
    first, _ = trained(tiny, tmp_path / "first", name)
    (tmp_path / "saved").mkdir()

    def killed(course: Course) -> None:
        if len(course.rows) == 2:
            saved_state.write(tmp_path / "saved", first, course, {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(first, plan, [], Clock(), lambda *_: None, after_each=killed)
    second, _ = trained(tiny, tmp_path / "second", name)
    course = saved_state.read(tmp_path / "saved").restore(second)
    loop.train(second, plan, [], Clock(), lambda *_: None, course)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters, second.parameters, strict=True))
    books = [accounting.account_step(learner, plan[0], True) for learner in (whole, second)]
    assert books[0].peak == books[1].peak
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters, second.parameters, strict=True))
    shapes = [tuple(p.shape) for p in whole.parameters]
    record = OPTIMIZERS[name]
    assert books[0].peak["optimizer"] == sum(record.state_bytes(s, 4) for s in shapes) + record.shared_bytes


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
