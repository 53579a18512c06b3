"""A model divided along copies, stages and shares at once: the loss curve of one process."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from peftbench.errors import Unsupported
from peftbench.models.precision import PRECISIONS
from peftbench.records import Devices
from peftbench.training import batches, loop
from peftbench.training.parallel import ALONE, divided, peers, pipeline, tensor
from peftbench.training.parallel.alike import padded_alike
from tests.support.divided_nano import examples, learner_of
from tests.support.ranks import on_ranks


def curve(learner):
    """Return the losses and gradient norms of some steps, and the validation loss after them."""
    learner.model.train()
    found = [loop.step(learner, loop.step_batches(learner, examples(s)), 3e-3) for s in range(4)]
    return [*found, loop.validation_loss(learner, examples(9))]


def on_a_rank(rank, sizes, method, folder):
    parallel = divided.Divided(Devices("tp", sizes[0] * sizes[1] * sizes[2]), rank, "cpu", sizes)
    learner = learner_of(method, folder, parallel)
    found = curve(learner)
    parallel.settle(learner.model)
    whole = replace(learner, parallel=ALONE)
    return (
        found,
        loop.validation_loss(whole, examples(9)),
        [float(p.detach().double().sum()) for p in learner.model.parameters()],
    )


@pytest.mark.parametrize(
    ("sizes", "method"),
    [
        ((1, 1, 2), "lora"),
        ((1, 2, 1), "adapter"),
        pytest.param((2, 1, 1), "lora", marks=pytest.mark.slow),
        pytest.param((1, 2, 2), "full", marks=pytest.mark.slow),
        pytest.param((1, 4, 1), "full", marks=pytest.mark.slow),
        pytest.param((2, 2, 2), "full", marks=pytest.mark.slow),
        pytest.param((2, 2, 2), "lora", marks=pytest.mark.slow),
    ],
)
def test_copies_stages_and_shares_train_as_one_process(sizes, method, tmp_path):
    one = learner_of(method, tmp_path)
    expected = curve(one)
    sums = [float(p.detach().double().sum()) for p in one.model.parameters()]
    for found, validated, own in on_ranks(sizes[0] * sizes[1] * sizes[2], tmp_path, on_a_rank, sizes, method, tmp_path):
        for (loss, norm), (other, others_norm) in zip(expected[:-1], found[:-1], strict=True):
            assert other == pytest.approx(loss, rel=1e-5)
            assert others_norm == pytest.approx(norm, rel=1e-4)
        assert found[-1] == pytest.approx(expected[-1], rel=1e-5)
        assert validated == pytest.approx(expected[-1], rel=1e-5), "the gathered model is another one"
        assert own == pytest.approx(sums, abs=2e-2)


def batch(rows, length, packed=False):
    ids = torch.randint(5, 1000, (rows, length))
    mask = torch.ones_like(ids)
    mask[0, length - 2 :] = 0
    labels = torch.where(mask.bool(), ids, batches.IGNORED)
    return batches.Batch(ids, mask, labels, torch.arange(length).repeat(rows, 1) if packed else None)


def test_micro_batches_of_one_shape_have_the_loss_of_their_own_shapes(tmp_path):
    learner = learner_of("adapter", tmp_path)
    learner.model.eval()
    each = [batch(2, 11), batch(1, 16), batch(2, 7)]
    alike = padded_alike(each, 2)
    assert {b.ids.shape for b in alike} == {(2, 16)}
    for own, padded in zip(each, alike, strict=True):
        assert padded.loss_tokens == own.loss_tokens
        with torch.no_grad():
            expected = float(loop.batch_loss(learner.model, own))
            assert float(loop.batch_loss(learner.model, padded)) == pytest.approx(expected, rel=1e-5)


def test_the_padding_of_packed_rows_is_one_more_example():
    (found,) = padded_alike([batch(2, 4, packed=True), batch(2, 6, packed=True)], 2)[:1]
    assert found.positions.tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 0, 1]]


class Here(peers.Peers):
    """One of two processes, with nobody there."""

    def add(self, tensor):
        return tensor


def refused(function, method, tmp_path, **options):
    learner = learner_of(method, tmp_path, **options)
    with pytest.raises(Unsupported) as caught:
        function(learner.model)
    return str(caught.value)


def test_what_cannot_be_divided_is_refused_with_its_reason(tmp_path):
    def share(count):
        return lambda model: tensor.divide(model, Here(0, count, None))

    def stage(count):
        return lambda model: pipeline.cut(model, Here(0, count, None), PRECISIONS["fp32"], "cpu")

    assert "without DoRA" in refused(share(2), "lora", tmp_path, dora=True)
    assert "dropout" in refused(share(2), "lora", tmp_path, dropout=0.1)
    assert "num_attention_heads of the base model, 4, cannot" in refused(share(3), "adapter", tmp_path)
    assert "5 stages, but the base has only 4 decoder layers" in refused(stage(5), "adapter", tmp_path)
    assert "stage 1 of 2 has nothing that trains" in refused(stage(2), "full", tmp_path, layers=1)
