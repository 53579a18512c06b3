"""The best learning rate of a sweep, and the ratio of two sweeps' best rates with its interval."""

from __future__ import annotations

import math
import random

import pytest

from peftbench.results.best_rates import BestRate, best_rate, ratio

RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)


def parabola(lowest, rates=RATES, noise=lambda: 0.0, floor=2.0):
    return {rate: floor + 0.05 * math.log(rate / lowest) ** 2 + noise() for rate in rates}


@pytest.mark.parametrize("lowest", [3e-5, 5e-5, 1e-4, 1.7e-4, 2.9e-4])
def test_the_lowest_point_of_a_parabola_is_found_between_unequal_rates(lowest):
    found = best_rate(parabola(lowest))
    assert found.rate == pytest.approx(lowest)
    assert (found.edge, found.between) == (None, True)


@pytest.mark.parametrize(("lowest", "edge", "rate"), [(1e-6, "smallest", 1e-5), (1e-2, "largest", 1e-3)])
def test_a_best_rate_at_an_edge_is_told_and_has_no_ratio(lowest, edge, rate):
    assert best_rate(parabola(lowest)) == BestRate(rate, edge, False)
    assert ratio({0: parabola(lowest)}, {0: parabola(1e-4)}) is None
    assert ratio({0: parabola(1e-4)}, {0: parabola(lowest)}) is None


def test_beside_a_rate_that_diverged_the_best_one_tried_counts():
    losses = parabola(1e-4) | {3e-4: None, 1e-3: None}
    assert best_rate(losses) == BestRate(1e-4, None, False)
    assert best_rate(dict.fromkeys(RATES)) is None


def test_a_ratio_of_rates_that_are_known_to_the_step_of_the_grid_has_no_interval():
    """All seeds agree on the step, so that an interval over seeds would have no width: [10, 10]."""
    beside = parabola(1e-4) | {3e-4: None, 1e-3: None}
    tuned, full = dict.fromkeys(range(3), beside), {seed: parabola(1e-5 * 3) for seed in range(3)}
    found = ratio(tuned, full)
    assert (found.seeds, found.low, found.high) == (3, None, None)
    assert found.ratio == pytest.approx(1e-4 / 3e-5)


@pytest.mark.parametrize("lost", [math.inf, math.nan])
def test_a_loss_that_is_no_number_counts_as_failed(lost):
    assert best_rate(parabola(1e-4) | {3e-4: lost}) == BestRate(1e-4, None, False)
    assert best_rate({1e-5: lost, 1e-4: 2.0, 1e-3: 3.0}) == BestRate(1e-4, None, False)


def test_two_rates_and_equal_losses_have_no_parabola():
    assert best_rate({1e-4: 2.0, 1e-3: 1.0}) is None
    assert best_rate({1e-5: 3.0, 1e-4: 2.0, 1e-3: 2.0}) == BestRate(pytest.approx(math.sqrt(1e-4 * 1e-3)), None, True)
    assert best_rate({1e-5: 2.0, 1e-4: 2.0, 1e-3: 2.0}).edge == "smallest"


def test_a_ratio_is_the_geometric_mean_over_common_seeds_with_students_interval():
    full = {0: parabola(1e-4), 1: parabola(1e-4), 2: parabola(1e-4)}
    tuned = {0: parabola(1e-4), 1: parabola(2e-4), 5: parabola(3e-4)}
    found = ratio(tuned, full)
    assert (found.seeds, found.ratio) == (2, pytest.approx(math.sqrt(2)))
    half = 12.7062 * math.log(2) / 2  # t of one degree of freedom times the standard error of (0, log 2)
    assert (math.log(found.low), math.log(found.high)) == (
        pytest.approx(math.log(2) / 2 - half, rel=1e-4),
        pytest.approx(math.log(2) / 2 + half, rel=1e-4),
    )
    assert ratio({0: parabola(2e-4)}, full).low is None
    assert ratio({7: parabola(2e-4)}, full) is None


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_covers_the_true_ratio_as_often_as_it_says(seeds):
    """With noise of the losses, and best rates that differ between seeds, drawn 500 times."""
    draw = random.Random(seeds)
    covered = known = 0
    for _ in range(500):
        true = 10 ** draw.uniform(0, 0.5)

        def sweep(best):
            return {
                seed: parabola(best * math.exp(draw.gauss(0, 0.1)), noise=lambda: draw.gauss(0, 0.003))
                for seed in range(seeds)
            }

        found = ratio(sweep(8e-5 * true), sweep(8e-5))
        if found is not None:
            known += 1
            covered += found.low <= true <= found.high
    assert known > 450
    assert 0.92 <= covered / known <= 0.98, "95 % up to three standard errors of 500 draws"
