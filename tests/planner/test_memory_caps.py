"""What is told of trials under a hard memory cap."""

from __future__ import annotations

from tools.validation import memory_caps
from tools.validation.memory_caps import Capped

SHORTEST = 0.1
"""By which share of its need a committed trial's cap is short at most; the document says what these are short of."""


def capped(taken: int, ended_ok: bool, precision: str = "bf16", shape: str = "plain") -> Capped:
    """Return a trial under a cap of 100 MB."""
    return Capped(shape, "lora", precision, False, 1, 32, 60_000_000, 40_000_000, ended_ok, taken)


def test_the_share_that_ran_and_what_the_killed_lacked_are_told():
    found = [capped(99_000_000, True), capped(104_000_000, False), capped(130_000_000, False, "fp32")]
    text = memory_caps.sentence(found)
    assert text.startswith("1 of 3 trials (33.3%) ran to the end")
    assert "66.7% with 5% more, 66.7% with 10% more, 66.7% with 20% more" in text
    assert "median; from -23.1% to +1.0%" in text
    text = memory_caps.causes(found)
    assert "1 of 2 with products in 16 bits, short of at most 4.0 MB" in text
    assert "1 of 1 with products in fp32, short of at most 30.0 MB" in text
    assert "| plain | 3 | 1 | 23.1% |" in memory_caps.table(found)


def test_kinds_are_drawn_once_and_each_worker_draws_of_its_own():
    drawn = memory_caps.kinds(0, 8)
    assert len(set(drawn)) == 8
    first = memory_caps.draws(0, 0, drawn[:4])
    for _ in range(20):
        one = next(first)
        assert (one.method, one.precision, one.checkpointing) in drawn[:4]
        assert one.shape in memory_caps.SHAPES


def test_no_committed_trial_lacks_more_than_the_document_explains():
    found = memory_caps.stored()
    unexplained = [one for one in found if one.excess <= -SHORTEST]
    assert len(unexplained) <= 2
    assert {(one.shape, one.method.partition("_")[2]) for one in unexplained} <= {("experts", "tuning")}
    assert all(one.excess < 0 for one in found if not one.ended_ok)
