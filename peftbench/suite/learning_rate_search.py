"""The candidate trials of a learning-rate search: shorter than the grid's, scored on the validation split."""

from __future__ import annotations

import itertools
from dataclasses import replace

from peftbench.methods.record import shown
from peftbench.records import Training, Trial
from peftbench.suite.cell_check import tasks_with_validation
from peftbench.suite.expand import candidate_rates, expand
from peftbench.suite.records import Suite

SPLIT = "validation"
FIRST_SEED = 1000
"""Seed of the first candidates. It does not depend on the grid's seeds, so that more of them need no new search."""


def candidates(suite: Suite, device: str) -> tuple[Trial, ...]:
    """Return the candidate trials of a suite's learning-rate search; none if each cell has a single learning rate.

    A candidate differs from the trials of its cell in the learning rate, in its seed, which is not one of the suite's,
    in the length of training, and in the split that it is scored on. So the test split is read for the selected rate
    only.

    Args:
        suite: a validated suite.
        device: as for ``expand``.
    """
    rates = candidate_rates(suite)
    if not rates or suite.search is None:
        return ()
    found: dict[str, Trial] = {}
    for trial in expand(suite, device):
        if trial.cell in rates and not trial.unsupported:
            found.setdefault(trial.cell, trial)
    seeds = list(itertools.islice((n for n in itertools.count(FIRST_SEED) if n not in suite.seeds), suite.search.seeds))
    return tuple(
        _candidate(trial, rate, seed, suite) for cell, trial in found.items() for rate in rates[cell] for seed in seeds
    )


def candidate_name(cell: str, precision: str, rate: float) -> str:
    """Return the name of a candidate: that of its cell, with the learning rate."""
    return f"{cell.removesuffix(precision)}{_rate(rate)} {precision}"


def _rate(rate: float) -> str:
    return f"lr={shown(rate)}"


def _candidate(trial: Trial, rate: float, seed: int, suite: Suite) -> Trial:
    training, scored = trial.training, tasks_with_validation(suite)
    assert training is not None
    assert suite.search is not None
    used = {*scored, *dict(training.data)}
    return replace(
        trial,
        cell=candidate_name(trial.cell, trial.precision, rate),
        candidate_of=trial.cell,
        named_settings=" ".join(filter(None, (trial.named_settings, _rate(rate)))),
        seed=seed,
        tasks=tuple(task for task in trial.tasks if task.name in used),
        evaluate=scored,
        training=_shorter(replace(training, learning_rate=rate), suite.search.share),
        evaluation=replace(trial.evaluation, split=SPLIT),
        inference=False,
        retention=None,
        deployed=(),
    )


def _shorter(training: Training, share: float) -> Training:
    """Return the training with this share of its steps, epochs, tokens or seconds."""

    def part(count: int | None) -> int | None:
        return None if count is None else max(1, round(share * count))

    epochs = None if training.epochs is None else share * training.epochs
    seconds = None if training.seconds is None else share * training.seconds
    return replace(training, steps=part(training.steps), epochs=epochs, tokens=part(training.tokens), seconds=seconds)
