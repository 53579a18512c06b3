"""Two nights of one trial each: cells are each other's repetitions, for memory and for a shift of scores."""

from __future__ import annotations

import random

from peftbench.results.watch import common_shift, memory
from peftbench.results.watch.quantities import FIXED, score

PEAK = next(quantity for quantity in FIXED if quantity.name == "peak_train_bytes")


def nights(changes: list[float], level: float) -> dict:
    """Return one trial a side for each cell, the new one changed by these amounts."""
    return {("nano", f"cell {i}"): ({0: level}, {0: level + change}) for i, change in enumerate(changes)}


def test_memory_of_one_cell_is_judged_by_the_spread_of_the_others():
    draw = random.Random(1)
    changes = [*(draw.gauss(0, 1e6) for _ in range(9)), 2e9]
    verdicts = [each.verdict for each in memory.judge(PEAK, nights(changes, 2e10), 0.0)]
    assert verdicts == ["unchanged"] * 9 + ["regressed"]


def test_memory_that_moved_by_less_than_one_percent_is_unchanged():
    found = memory.judge(PEAK, nights([*[0.0] * 9, 1.5e8], 2e10), 0.0)
    assert {each.verdict for each in found} == {"unchanged"}


def test_memory_of_all_cells_that_grew_is_growth():
    draw = random.Random(2)
    found = memory.judge(PEAK, nights([2e9 + draw.gauss(0, 1e6) for _ in range(10)], 2e10), 0.0)
    assert {each.verdict for each in found} == {"regressed"}


def test_memory_of_cells_that_all_move_apart_cannot_be_told():
    found = memory.judge(PEAK, nights([-3e9, -2e9, -1e9, 1e9, 2e9, 3e9], 2e10), 0.0)
    assert {each.verdict for each in found} == {"cannot tell"}
    assert all(each.reason for each in found)


def test_a_shift_of_scores_is_a_finding_over_all_cells():
    draw = random.Random(3)
    found = common_shift.judge({score("judge"): nights([draw.gauss(-0.02, 0.01) for _ in range(20)], 0.5)}, 0.0)
    assert [(each.cell, each.verdict) for each in found] == [("all cells", "regressed")]
    assert found[0].trials == (20, 20)


def test_scores_without_a_shift_have_no_finding():
    draw = random.Random(4)
    quantity = score("judge")
    drawn = [
        common_shift.judge({quantity: nights([draw.gauss(0, 0.01) for _ in range(20)], 0.5)}, 0.0) for _ in range(300)
    ]
    assert sum(bool(found) for found in drawn) <= 8
    assert common_shift.judge({quantity: nights([-0.02] * 5, 0.5)}, 0.0) == []
    assert common_shift.judge({quantity: nights([-0.02] * 20, 0.5)}, 0.05) == []


def test_of_many_tasks_a_shift_in_one_must_be_significant_for_all_of_them():
    draw = random.Random(8)
    alone = common_shift.judge({score("judge"): nights([-0.02 - i / 1000 for i in range(8)], 0.5)}, 0.0)
    assert [each.verdict for each in alone] == ["regressed"], "p = 2 / 2**8"
    others = {score(f"other {i}"): nights([draw.gauss(0, 0.01) for _ in range(8)], 0.5) for i in range(5)}
    many = {score("judge"): nights([-0.02 - i / 1000 for i in range(8)], 0.5), **others}
    assert common_shift.judge(many, 0.0) == []
