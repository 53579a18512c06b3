"""How the forward passes of a step are divided among ranks, and what a divided tensor is."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import distributed, nn

from peftbench.models import divided
from peftbench.models.precision import PRECISIONS
from peftbench.training.parallel import ALONE, shards
from peftbench.training.parallel.data import Replicated, own


@pytest.mark.parametrize(("passes", "count"), [(1, 2), (3, 2), (4, 2), (5, 4), (8, 4)])
def test_every_pass_counts_on_one_rank_and_all_ranks_run_equally_many(passes, count):
    batches = [object() for _ in range(passes)]
    each = [own(batches, rank, count) for rank in range(count)]
    assert len({len(found) for found in each}) == 1
    counted = [batch for found in each for batch, counts in found if counts]
    assert sorted(map(batches.index, counted)) == list(range(passes))


def test_one_process_has_its_own_seed_and_its_own_values():
    assert (ALONE.seed(3), ALONE.same(2.5), ALONE.gathered("x")) == (3, 2.5, ["x"])


def test_a_plain_tensor_is_whole_and_its_own():
    tensor = torch.ones(2)
    assert divided.whole(tensor) is tensor
    assert divided.own(tensor) is tensor
    assert not divided.is_divided(tensor)


@contextmanager
def alone(folder):
    """Be the only process of a group within the context."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
    try:
        yield
    finally:
        distributed.destroy_process_group()


@pytest.mark.parametrize("known", [True, False])
def test_a_tensor_that_rank_0_does_not_have_is_not_left_without_values(known, tmp_path):
    model = nn.Module()
    model.register_buffer("scale", torch.ones(2))
    model.peftbench_start = {"a": torch.ones(1)}
    values = shards.taken(model)
    values.others = {label: found for label, found in values.others.items() if known and "scale" in label}
    with alone(tmp_path), nullcontext() if known else pytest.raises(RuntimeError, match=r"scale \(buffer\)"):
        shards.fill(model, values, 0, 1, "cpu", False)


def test_buckets_of_the_first_step_are_not_kept_when_ddp_makes_them_anew(tmp_path):
    """They would be allocated beside the new ones: gradients twice."""
    with alone(tmp_path):
        parallel = Replicated(SimpleNamespace(count=1, shares=1), 0, "cpu")
        model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
        model.config = SimpleNamespace(get_text_config=SimpleNamespace)
        parallel.distribute(model, PRECISIONS["fp32"])
        learner = SimpleNamespace(
            device="cpu", precision=PRECISIONS["fp32"], scaler=torch.amp.GradScaler("cpu", enabled=False)
        )
        held = []

        def loss(given, batch):
            held.append(len(list(parallel.exchanged())))
            return given(torch.ones(2, 4)).sum()

        for _ in range(3):
            parallel.gradients(learner, [SimpleNamespace(loss_tokens=2)], loss)
            model.zero_grad(set_to_none=True)
            assert list(parallel.exchanged())
    assert held == [0, 0, 1]
