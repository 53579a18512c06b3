"""How the forward passes of a step are divided among ranks, and what a divided tensor is."""

from __future__ import annotations

import pytest
import torch

from peftbench.models import divided
from peftbench.training.parallel import ALONE
from peftbench.training.parallel.data import own


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
