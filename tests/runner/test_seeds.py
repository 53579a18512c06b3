"""What a seed governs: initialisation, data order and dropout, each by itself, and nothing else does."""

from __future__ import annotations

import dataclasses
import time

import pytest

from peftbench.methods import METHODS, method_of
from peftbench.runner import trial
from peftbench.training import batches as training_batches
from tests.support import trials


@pytest.fixture
def losses(tiny, tmp_path, monkeypatch):
    """Return a trial's losses and its batches' hash with a seed of its own for each use; nothing else is measured."""
    for module, name in ((trial.accounting, "train_columns"), (trial.flops, "columns")):
        monkeypatch.setattr(module, name, lambda *_: {})
    monkeypatch.setattr(trial.accounting, "account_steps", lambda *_: None)
    monkeypatch.setattr(trial, "_evaluate", lambda *_: None)
    seeding, planning = trial._seed, training_batches.plan_steps

    def run(process=0, attach=0, train=0, order=0, **changes):
        uses = iter((process, attach, train))
        monkeypatch.setattr(trial, "_seed", lambda _: seeding(next(uses)))
        monkeypatch.setattr(training_batches, "plan_steps", lambda *given: planning(*given[:-1], order))
        made = trials.trial(tiny, tmp_path, **changes)
        result = trial.run(trials.job(made, tmp_path), time.perf_counter(), lambda _: None, lambda *_: None)
        assert (result.row.status, result.row.message) == ("ok", None)
        assert next(uses, None) is None
        return [(step.loss, step.gradient_norm) for step in result.steps], result.row.batches_sha256

    return run


def test_initialisation_order_and_dropout_follow_the_seed_each_by_itself(losses):
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
    assert losses()[0] == losses(train=1)[0] != start, "in training only dropout is drawn"
    assert losses(process=1)[0] == losses()[0], "loading the base draws nothing that lasts"


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.trains and n not in ("full", "peft")])
def test_every_methods_own_start_follows_the_seed(name, tiny):
    """``full`` starts from the base, and what a tuner of peft draws is peft's."""
    import torch

    from tests.support.method_cells import loaded

    def start(seed):
        precision = method_of(name, {}).default_precision
        options = trials.trial(tiny, tiny.parent / "data", name, precision).options
        base = loaded(tiny, name, precision).model
        trial._seed(seed)
        tuned = trial.resolve(METHODS[name].attach)(base, 4, options)
        return torch.cat([p.detach().flatten().float() for p in tuned.parameters() if p.requires_grad])

    assert torch.equal(start(0), start(0))
    assert not torch.equal(start(0), start(1))


def test_the_hash_of_the_batches_tells_other_tokens_other_losses_and_another_order():
    def encoded(ids, loss_from=1):
        return training_batches.Encoded(tuple(ids), loss_from, False, ("t", 0))

    one, two = encoded([1, 2, 3]), encoded([1, 2, 4])
    plans = [[[one], [two]], [[two], [one]], [[one, two]], [[one], [encoded([1, 2, 4], 2)]], [[one], [one]]]
    assert len({training_batches.fingerprint(plan) for plan in plans}) == len(plans)
    renamed = dataclasses.replace(one, identity=("u", 7))
    assert training_batches.fingerprint([[renamed], [two]]) == training_batches.fingerprint(plans[0])
