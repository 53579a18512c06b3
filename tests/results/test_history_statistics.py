"""The tests of a history: their level if nothing changed, what they find, and what they are not misled by."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from scipy.stats import wilcoxon

from peftbench.results.history import change_points, exact, noise
from peftbench.results.watch.common_shift import common_shift, signed_rank, significant

DRAWS = 1500
STEP = [1.0, 1.01, 0.99, 1.02, 0.98, 1.005, 0.995, 1.015, 0.985, 1.0] * 2


@pytest.mark.parametrize("n", [12, 30, 90])
@pytest.mark.parametrize("heavy", [False, True])
def test_without_a_change_a_probability_is_as_rare_as_it_says(n, heavy):
    draw = np.random.default_rng((n, heavy))
    series = draw.standard_t(3, (DRAWS, n)) if heavy else draw.normal(size=(DRAWS, n))
    found = np.array([change_points.best_split(list(values)).p for values in series])
    for level in (0.1, 0.01):
        assert np.mean(found <= level) <= level + 3 * (level / DRAWS) ** 0.5


def test_equal_values_do_not_make_the_test_too_eager():
    draw = np.random.default_rng(5)
    found = [change_points.best_split(list(np.round(draw.normal(size=20)))).p for _ in range(DRAWS)]
    assert np.mean(np.array(found) <= 0.05) <= 0.05 + 3 * (0.05 / DRAWS) ** 0.5


def test_a_step_is_found_where_it_is_and_the_same_each_time():
    values = STEP + [value * 0.9 for value in STEP[:12]]
    found = change_points.splits(values, 1e-3)
    assert [split.place for split in found] == [20]
    assert found[0].p < 1e-4
    assert change_points.splits(values, 1e-3) == found


def test_two_steps_are_both_found():
    values = STEP + [value * 0.9 for value in STEP] + [value * 1.1 for value in STEP]
    assert [split.place for split in change_points.splits(values, 1e-3)] == [20, 40]


def test_a_recent_step_is_placed_where_it_is_not_towards_the_middle():
    draw = random.Random(3)
    values = [draw.gauss(10 if night < 82 else 9, 0.01) for night in range(90)]
    assert change_points.best_split(values).place == 82


def test_a_single_night_far_out_is_no_step_but_an_outlier():
    values = list(STEP)
    values[12] = 0.2
    assert change_points.splits(values, 0.05) == []
    assert noise.outliers(values, 0.01) == [12]


def test_too_few_nights_have_no_steps():
    assert change_points.best_split([1.0, 1.0, 1.0, 2.0, 2.0]) is None
    assert change_points.splits([1.0, 1.0, 1.0, 2.0, 2.0, 2.0], 0.01) == []


def test_probabilities_go_on_falling_beyond_what_was_simulated():
    found = [change_points.best_split([0.0] * n + [1.0] * n).p for n in (12, 20, 40, 100)]
    assert found == sorted(found, reverse=True)
    assert 0 < found[-1] < 1e-9


def test_constant_nights_have_no_step():
    assert change_points.splits([7.0] * 30, 0.01) == []


@pytest.mark.parametrize("nights", [1, 2, 4, 7])
def test_newest_nights_that_depart_are_found_with_their_first_night(nights):
    found = noise.departure(STEP + [0.8] * nights, 0.01, 3.0)
    assert found.place == len(STEP)
    assert found.p < 1e-4


def test_one_night_is_no_departure_if_a_single_night_was_as_far_out_before():
    assert noise.departure([*STEP, 0.8], 0.01, farthest=30.0).p == 1.0
    assert noise.departure([*STEP, 0.8, 0.8, 0.8], 0.01, farthest=30.0).p < 1e-4


def test_fewer_than_seven_nights_before_have_no_departure():
    assert noise.departure([1.0] * 6 + [5.0], 0.01) is None


def test_a_spread_of_a_few_equal_nights_is_not_taken_for_none():
    few = [1.0, 1.0, 1.0, 1.0, 1.0, 1.01, 0.99, 1.03]
    assert noise.departure(few, 0.0).p == 0.0
    assert noise.departure(few, 0.02).p > 0.05


def test_the_pooled_scale_does_not_see_steps():
    one = STEP + [value * 2 for value in STEP]
    assert noise.relative_scale([one]) == pytest.approx(noise.relative_scale([STEP]), rel=0.5)
    assert noise.relative_scale([[1.0, 2.0]]) == 0.0


def test_exact_steps_and_single_nights():
    assert exact.steps([5, 5, 6, 6, 5, 5]).places == (2, 4)
    assert exact.steps([5, 5, 6, 5, 5]) == exact.Steps((), (2,))
    assert exact.steps([5, 5, 6]).places == (2,)
    assert exact.levels([5, 5, 6, 6], [2]) == [5, 6]


def test_slow_growth_within_the_tolerance_of_each_night_is_found():
    assert exact.steps([100 * 1.006**night for night in range(4)], 0.01).places == (2,)


def test_the_signed_rank_test_is_exact():
    draw = random.Random(1)
    moved = [draw.gauss(0.4, 1) for _ in range(14)]
    assert signed_rank(moved) == pytest.approx(wilcoxon(moved, method="exact").pvalue)


def test_the_signed_rank_test_is_exact_with_ties():
    moved = [1.0, 1.0, -1.0, 2.0, 2.0, 3.0, -0.5, 4.0]
    ranks = [3, 3, 3, 5.5, 5.5, 7, 1, 8]
    observed = sum(rank for rank, value in zip(ranks, moved, strict=True) if value > 0)
    sums = [sum(r for r, up in zip(ranks, ups, strict=True) if up) for ups in itertools.product((0, 1), repeat=8)]
    expected = 2 * min(sum(s >= observed for s in sums), sum(s <= observed for s in sums)) / len(sums)
    assert signed_rank(moved) == pytest.approx(min(1.0, expected))


def test_a_shift_of_all_cells_is_found_although_each_is_small():
    draw = random.Random(2)
    differences = {f"cell {i}": draw.gauss(-0.0165, 0.01) for i in range(38)}
    found = common_shift(differences)
    assert found.p < 1e-6
    assert found.cells == 38
    assert len(found.down) > len(found.up)
    assert common_shift({f"cell {i}": 0.0 if i > 4 else 0.1 for i in range(38)}) is None


def test_holm_rejects_the_smallest_first():
    assert significant([0.001, 0.2, 0.02, 0.004], 0.01) == [True, False, False, False]
    assert significant([0.001, 0.2, 0.002, 0.003], 0.01) == [True, False, True, True]
    assert significant([], 0.01) == []
