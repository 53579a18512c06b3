"""The reference step: its code stays what it is, and it leaves no trace in a trial."""

from __future__ import annotations

import pytest
import torch

from peftbench.measure import reference


def test_the_step_is_the_one_that_all_nights_have_timed():
    of, ids = reference.weights()
    optimizer = torch.optim.AdamW(of.values(), lr=1e-3)
    losses = []
    for _ in range(4):
        loss = reference.loss(of, ids)
        losses.append(float(loss.detach()))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = "another step: speeds no longer compare with those of earlier nights"
    assert losses == pytest.approx([6.420412, 5.232125, 4.447176, 3.789030], rel=1e-3), changed
    assert (ids.shape, sum(each.numel() for each in of.values())) == ((8, 16), 491_520), changed


def test_it_takes_a_part_of_a_second_and_draws_no_random_number_of_the_trials(monkeypatch):
    monkeypatch.setattr(reference, "_SECONDS", 0.0)
    before = torch.random.get_rng_state()
    found = reference.step_seconds()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert len(found) == reference._LEAST
    assert all(seconds > 0 for seconds in found)


def test_too_little_memory_leaves_the_step_unknown(monkeypatch):
    def full(*_):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(reference, "loss", full)
    assert reference.step_seconds() is None
    monkeypatch.setattr(reference, "loss", lambda *_: (_ for _ in ()).throw(RuntimeError("a mistake")))
    with pytest.raises(RuntimeError, match="a mistake"):
        reference.step_seconds()


def test_the_typical_step_is_between_before_and_after():
    assert reference.typical([1.0, 2.0, 9.0], [4.0]) == 3.0
    assert reference.typical([1.0], None) is None
    assert reference.typical(None, [1.0]) is None
