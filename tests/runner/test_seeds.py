"""A seed decides initialisation, data order and dropout, each independently, and nothing else."""

from __future__ import annotations

import dataclasses
import time

import pytest

from peftbench.methods import METHODS, method_of
from peftbench.records.resolve import resolve
from peftbench.runner import evaluating, trial, tuning
from peftbench.training import batches as training_batches
from tests.support import trials


@pytest.fixture
def losses(tiny, tmp_path, monkeypatch):
    """Return a function that runs a trial with separate seeds, and gives its losses and the hash of its batches."""
    monkeypatch.setattr(tuning, "_account", lambda *_: None)
    monkeypatch.setattr(evaluating, "evaluate", lambda *_: None)
    seeding, planning = tuning.seed_all, training_batches.draw_batches

    def run(process=0, attach=0, train=0, order=0, **changes):
        uses = iter((process, attach, train))
        monkeypatch.setattr(tuning, "seed_all", lambda _: seeding(next(uses)))
        monkeypatch.setattr(training_batches, "draw_batches", lambda *given: planning(*given[:3], order, *given[4:]))
        made = trials.trial(tiny, tmp_path, **changes)
        result = trial.run(trials.job(made, tmp_path), time.perf_counter(), lambda _: None, lambda *_: None)
        assert (result.row.status, result.row.message) == ("ok", None)
        assert next(uses, None) is None
        return [(step.loss, step.gradient_norm) for step in result.steps], result.row.batches_sha256

    return run


def test_initialisation_data_order_and_dropout_each_follow_their_own_seed(losses):
    dropping = {"options": {"dropout": 0.5}}
    start, batches = losses(**dropping)
    assert losses(**dropping) == (start, batches)
    other_start = losses(attach=1, **dropping)
    assert other_start[0] != start
    assert other_start[1] == batches
    other_order = losses(order=1, **dropping)
    assert other_order[0] != start
    assert other_order[1] != batches
    assert losses(train=1, **dropping)[0] != start
    assert losses()[0] == losses(train=1)[0] != start, "without dropout, training draws no random numbers"
    assert losses(process=1)[0] == losses()[0], "the seed during loading does not affect the losses"


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.trains and n not in ("full", "peft")])
def test_the_initialisation_of_every_method_follows_the_seed(name, tiny):
    """Except ``full``, which starts from the base model, and ``peft``, whose initialisation is peft's own."""
    import torch

    from tests.support.method_cells import loaded

    def start(seed):
        precision = method_of(name, {}).default_precision
        options = trials.trial(tiny, tiny.parent / "data", name, precision).options
        base = loaded(tiny, name, precision).model
        tuning.seed_all(seed)
        tuned = resolve(METHODS[name].attach)(base, 4, options)
        return torch.cat([p.detach().flatten().float() for p in tuned.parameters() if p.requires_grad])

    assert torch.equal(start(0), start(0))
    assert not torch.equal(start(0), start(1))


def test_the_hash_of_the_batches_depends_on_tokens_loss_positions_and_order_but_not_on_task_names():
    def encoded(ids, loss_from=1):
        return training_batches.Encoded(tuple(ids), loss_from, False, ("t", 0))

    one, two = encoded([1, 2, 3]), encoded([1, 2, 4])
    plans = [[[one], [two]], [[two], [one]], [[one, two]], [[one], [encoded([1, 2, 4], 2)]], [[one], [one]]]
    assert len({training_batches.fingerprint(plan) for plan in plans}) == len(plans)
    renamed = dataclasses.replace(one, identity=("u", 7))
    assert training_batches.fingerprint([[renamed], [two]]) == training_batches.fingerprint(plans[0])
