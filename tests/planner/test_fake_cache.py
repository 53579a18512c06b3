"""The cache of fake operators returns what the operators would return."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from peftbench.planner import fake
from peftbench.planner.fake_cache import CachingFakeTensorMode
from peftbench.planner.predict import predict
from peftbench.planner.records import Pass
from tests.support import architectures, trials
from tests.support.sample import sample

CASES = [
    ("llama", "lora", "fp32", {"gradient_checkpointing": True}),
    ("llama", "qlora", "nf4", {"gradient_checkpointing": True}),
    ("mixtral", "lora", "nf4", {}),
    ("gpt2", "full", "bf16", {}),
    ("gemma3", "lora", "int8", {}),
    ("bloom", "prefix_tuning", "fp16", {}),
    ("falcon", "llama_adapter", "bf16-true", {}),
]


@pytest.mark.parametrize(("family", "method", "precision", "training"), sample(CASES, 3))
def test_a_prediction_is_the_same_with_and_without_the_cache(
    family, method, precision, training, tmp_path, monkeypatch
):
    config = architectures.CONFIGS[family]()
    made = trials.trial(tmp_path, tmp_path / "data", method, precision, training=training)
    steps = [Pass(1, 7), Pass(2, 16)]
    remembered = predict(made, config, steps)
    monkeypatch.setattr(fake, "CachingFakeTensorMode", FakeTensorMode)
    assert predict(made, config, steps) == remembered


def twice(operator):
    """The same operator on new tensors of the same shapes, the second time from memory."""
    with CachingFakeTensorMode() as mode:
        for _ in range(2):
            before = len(mode._seen)
            yield operator(torch.ones(3, 4))
        assert len(mode._seen) >= before


def test_views_share_their_storage_and_changes_in_place_return_the_tensor_itself():
    for operator in (lambda x: x.t(), lambda x: x[1:, 2:], lambda x: x.view(2, 6), lambda x: x.detach()):
        first, again = twice(lambda x, operator=operator: (x, operator(x)))
        for x, out in (first, again):
            assert out.untyped_storage()._cdata == x.untyped_storage()._cdata
        assert (first[1].shape, first[1].stride()) == (again[1].shape, again[1].stride())
        assert first[1].storage_offset() == again[1].storage_offset()
    for x, out in twice(lambda x: (x, x.add_(1))):
        assert out is x


def test_a_new_tensor_has_its_own_storage_of_the_same_size():
    (x, first), (y, again) = twice(lambda x: (x, x.t().contiguous()))
    held = {t.untyped_storage()._cdata for t in (x, y, first, again)}
    assert len(held) == 4
    assert first.untyped_storage().nbytes() == again.untyped_storage().nbytes() == 48


def test_numbers_and_types_are_distinguished():
    with CachingFakeTensorMode():
        x = torch.ones(3, 4)
        assert [x.to(t).dtype for t in (torch.bfloat16, torch.float16, torch.bfloat16)] == [
            torch.bfloat16,
            torch.float16,
            torch.bfloat16,
        ]
        assert [x.sum(d).shape for d in (0, 1, 0)] == [(4,), (3,), (4,)]
        assert [(x.int() * k).dtype for k in (2, 2.0, True)] == [torch.int32, torch.float32, torch.int32]


def test_a_tensor_that_is_resized_is_resized_each_time():
    for x, _ in twice(lambda x: (x, x.resize_(2, 2))):
        assert x.shape == (2, 2)
    for x, _ in twice(lambda x: (x, x.t_())):
        assert x.shape == (4, 3)
    for x, out in twice(lambda x: (x, torch.add(x, 1, out=torch.empty(3, 4)))):
        assert out.untyped_storage()._cdata != x.untyped_storage()._cdata
