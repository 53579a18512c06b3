"""The reference step: its code stays what it is, and it leaves no trace in a trial."""

from __future__ import annotations

import re
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from peftbench.measure import reference
from peftbench.measure.ledger import Ledger
from peftbench.results.store.schema import columns
from peftbench.runner import tuning
from peftbench.training.parallel import ALONE


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


def test_its_tensors_are_most_of_the_memory_that_the_columns_of_resident_memory_name(monkeypatch):
    monkeypatch.setattr(reference, "_SECONDS", 0.0)
    with Ledger() as ledger:
        reference.step_seconds()
    (meaning,) = (each.doc for each in columns("trials") if each.name == "host_peak_train_bytes")
    said = re.search(r"some (\d+) MB", meaning)
    assert said is not None
    assert 0.75 * int(said[1]) < ledger.bytes.peak_bytes / 1e6 < int(said[1])


FAILURES = [RuntimeError("DefaultCPUAllocator: can't allocate memory"), RuntimeError("a mistake"), MemoryError()]


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("error", FAILURES)
def test_a_step_that_fails_before_or_after_training_is_unknown_and_ends_no_trial(monkeypatch, error, after):
    def fails(*_):
        raise error

    recorded = []
    run = SimpleNamespace(
        job=SimpleNamespace(trial=SimpleNamespace(device="cpu")),
        clock=SimpleNamespace(phase=lambda _: nullcontext()),
        record=recorded.append,
        parallel=ALONE,
    )
    monkeypatch.setattr(reference, "_SECONDS", 0.0)
    with monkeypatch.context() as patched:
        if not after:
            patched.setattr(reference, "loss", fails)
        with tuning._beside_reference(run):
            patched.undo()
            if after:
                patched.setattr(reference, "loss", fails)
    assert [columns.reference_step_seconds for columns in recorded] == [None]


def test_on_a_gpu_no_step_is_timed(monkeypatch):
    monkeypatch.setattr(reference, "step_seconds", lambda: pytest.fail("its memory would stay"))
    with tuning._beside_reference(SimpleNamespace(job=SimpleNamespace(trial=SimpleNamespace(device="cuda")))):
        pass


def test_the_typical_step_is_between_before_and_after():
    assert reference.typical([1.0, 2.0, 9.0], [4.0]) == 3.0
    assert reference.typical([1.0], None) is None
    assert reference.typical(None, [1.0]) is None
