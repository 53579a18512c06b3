"""The models that judge two nights, on numbers made up for them."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Mapping

import pytest

from peftbench.results.crossed_effects.student import p_value
from peftbench.results.watch import exact, inference, memory, merge, noise, scores, speed
from peftbench.results.watch.clocks import Timed
from peftbench.results.watch.findings import ALL_CELLS, Cell, Finding
from peftbench.results.watch.quantities import FIXED, Seed, quantities, score

BY_NAME = {quantity.name: quantity for quantity in (*FIXED, score("judge"))}
CELL: Cell = ("nano", "lora")
Values = Mapping[Seed, float]


def seeds(*values: float) -> dict[Seed, float]:
    return dict(enumerate(values))


def test_every_quantity_has_a_kind_and_no_two_have_one_name() -> None:
    found = quantities(["score_judge", "score_judge_standard_error", "score_free", "peak_train_bytes", "score_judge"])
    assert [each.name for each in found[:2]] == ["score_judge", "score_free"]
    assert found[2:] == FIXED
    assert len({each.name for each in found}) == len(found)


@pytest.mark.parametrize(
    ("name", "old", "new", "tolerated", "verdict"),
    [
        ("peak_train_bytes", seeds(100, 90), seeds(100, 90), 0.0, "unchanged"),
        ("peak_train_bytes", seeds(100, 90), seeds(100, 91), 0.0, "regressed"),
        ("peak_train_bytes", seeds(100, 90), seeds(99, 91), 0.0, "regressed"),
        ("peak_train_bytes", seeds(100, 90), seeds(99, 90), 0.0, "improved"),
        ("peak_train_bytes", seeds(100, 90), seeds(101, 90), 0.02, "unchanged"),
        ("peak_train_bytes", seeds(100, 90), {5: 100.0}, 0.0, "cannot tell"),
        ("peak_train_bytes", seeds(100, 100), {5: 100.0}, 0.0, "unchanged"),
        ("peak_train_bytes", {None: 100.0}, {None: 101.0}, 0.0, "regressed"),
        ("checkpoint_bytes", seeds(5), seeds(6), 0.0, "regressed"),
        ("checkpoint_bytes", seeds(6), seeds(5), 0.0, "improved"),
        ("trainable_parameters", seeds(6), seeds(5), 0.0, "regressed"),
        ("trainable_parameters", seeds(5), seeds(6), 0.0, "regressed"),
        ("checkpoint_bytes", seeds(0), seeds(6), 0.0, "regressed"),
        ("checkpoint_bytes", seeds(0), seeds(0), 0.0, "unchanged"),
    ],
)
def test_an_exact_number_is_judged_without_noise(
    name: str, old: Values, new: Values, tolerated: float, verdict: str
) -> None:
    assert exact.judge(CELL, BY_NAME[name], old, new, tolerated).verdict == verdict


def test_growth_in_some_seeds_says_in_how_many() -> None:
    found = exact.judge(CELL, BY_NAME["peak_train_bytes"], seeds(100, 90), seeds(100, 99), 0.0)
    assert found.reason == "in 1 of 2 seeds"
    assert found.change == pytest.approx(199 / 190 - 1)


PEAK = BY_NAME["peak_train_bytes"]


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        (seeds(100, 100, 100), seeds(100, 100, 100), "unchanged"),
        (seeds(100, 100, 100), seeds(101, 101, 101), "regressed"),  # repetitions agree to the bit
        (seeds(100, 100, 100), seeds(99, 99, 99), "improved"),
        (seeds(100, 101, 100), seeds(101, 100, 100), "cannot tell"),
        (seeds(100, 101, 100), seeds(150, 151, 150), "regressed"),
        (seeds(1e6, 1e6 + 10, 1e6), seeds(1e6 + 10, 1e6, 1e6), "unchanged"),
        (seeds(100), seeds(100), "unchanged"),
        (seeds(100), seeds(130), "cannot tell"),  # one trial a side: the tolerance is not known
        (seeds(100, 100.5), {5: 150.0, 6: 150.5}, "regressed"),
    ],
)
def test_memory_of_a_gpu_is_judged_by_the_spread_of_its_repetitions(old: Values, new: Values, verdict: str) -> None:
    (found,) = memory.judge(PEAK, {CELL: (old, new)}, 0.0)
    assert found.verdict == verdict
    assert (found.reason is None) is (verdict != "cannot tell")


def test_growth_of_memory_is_tolerated_up_to_what_is_asked() -> None:
    sides = seeds(100, 100), seeds(104, 104)
    assert [memory.judge(PEAK, {CELL: sides}, limit)[0].verdict for limit in (0.03, 0.05)] == ["regressed", "unchanged"]


def test_memory_of_one_trial_a_side_is_unchanged_only_if_the_spread_of_the_cells_says_so() -> None:
    grown = [0.10, -0.10, 0.08, -0.09, 0.009, 0.0]
    cells = {("nano", f"{i}"): (seeds(1000), seeds(1000 * (1 + share))) for i, share in enumerate(grown)}
    found = memory.judge(PEAK, cells, 0.0)
    assert [each.verdict for each in found[4:]] == ["cannot tell", "unchanged"]
    quiet = {cell: (old, seeds(1000 + i / 100)) for i, (cell, (old, _)) in enumerate(cells.items())}
    assert {each.verdict for each in memory.judge(PEAK, quiet, 0.0)} == {"unchanged"}
    alone = memory.judge(PEAK, {CELL: (seeds(1000), seeds(1005))}, 0.02)
    assert alone[0].verdict == "cannot tell"


def test_memory_of_cells_with_and_without_repetitions_has_one_level_for_false_alarms() -> None:
    shares = [0.0, 0.002, -0.002, 0.004, -0.004, 0.035]
    alone = {("nano", f"{i}"): (seeds(1000), seeds(1000 * (1 + share))) for i, share in enumerate(shares)}
    repeated = {("nano", f"repeated {i}"): (seeds(1000, 1000), seeds(1000, 1000)) for i in range(2)}
    p = {each.key: each.p for each in memory.judge(PEAK, alone, 0.0)}
    found = {each.key: each for each in memory.judge(PEAK, repeated | alone, 0.0)}
    assert list(found) == [*repeated, *alone]
    last = "nano", "5"
    assert found[last].p == pytest.approx((p[last] or 0.0) * 8 / 6)
    assert {found[key].p for key in repeated} == {1.0}


def test_a_test_without_a_margin_is_two_sided() -> None:
    error = noise.Error(0.02, 7.0)
    assert error.beyond(0.05, 0.0) == pytest.approx(p_value(0.05, 0.02, 7.0))
    assert error.beyond(0.0, 0.0) == pytest.approx(1)
    assert error.beyond(0.05, 0.03) > error.beyond(0.05, 0.0)


SPEED = BY_NAME["tokens_per_second"]


def night(
    factors: Mapping[str, float], machine: float = 1.0, sd: float = 0.01, clocked: bool = True, trials: int = 3
) -> dict[Cell, Timed]:
    """Return two nights of a grid; each cell is made faster by its factor, all cells by the machine's."""
    draw, made = random.Random(f"{sorted(factors.items())} {machine} {sd}"), {}
    for place, (name, factor) in enumerate(factors.items()):
        old = {seed: 1000.0 * (place + 1) * math.exp(draw.gauss(0, sd)) for seed in range(trials)}
        new = {seed: 1000.0 * (place + 1) * factor * machine * math.exp(draw.gauss(0, sd)) for seed in range(trials)}
        clocks = [{seed: 1e9 * speed * math.exp(draw.gauss(0, sd)) for seed in range(trials)} for speed in (1, machine)]
        made["nano", name] = Timed(old, new, *(clocks if clocked else ({}, {})))
    return made


def judged(cells: Mapping[Cell, Timed], least: float = 0.05) -> dict[str, Finding]:
    return {found.cell: found for found in speed.judge(SPEED, cells, least, 0.08)}


ALIKE = {f"cell {i}": 1.0 for i in range(10)}


@pytest.mark.parametrize("clocked", [True, False])
@pytest.mark.parametrize("machine", [0.88, 1.0, 1.12])
def test_a_slower_machine_is_no_regression_of_the_cells(machine: float, clocked: bool) -> None:
    found = judged(night(ALIKE, machine, clocked=clocked))
    known = clocked or machine == 1  # without a clock all cells may have changed
    assert {each.verdict for name, each in found.items() if name != ALL_CELLS} == {
        "unchanged" if known else "cannot tell"
    }
    assert ("two nights cannot tell that from the machine" in (found["cell 3"].reason or "")) is not known
    assert found[ALL_CELLS].verdict in ("cannot tell", "unchanged")
    assert "10 cells together moved by" in (found[ALL_CELLS].reason or "")


@pytest.mark.parametrize(("factor", "verdict"), [(0.8, "regressed"), (1.3, "improved"), (0.97, "unchanged")])
def test_a_cell_that_moves_against_the_others_is_found_on_a_slower_machine(factor: float, verdict: str) -> None:
    found = judged(night(ALIKE | {"cell 3": factor}, 0.8))
    assert found["cell 3"].verdict == verdict
    assert {each.verdict for name, each in found.items() if name not in ("cell 3", ALL_CELLS)} == {"unchanged"}
    assert found["cell 3"].change == pytest.approx(factor - 1, abs=0.03)


@pytest.mark.parametrize(("factor", "verdict"), [(0.5, "regressed"), (1.6, "improved")])
@pytest.mark.parametrize("clocked", [True, False])
def test_a_change_in_all_cells_that_the_machine_does_not_explain_counts(
    factor: float, verdict: str, clocked: bool
) -> None:
    found = judged(night(dict.fromkeys(ALIKE, factor), clocked=clocked))
    assert {each.verdict for each in found.values()} == {verdict}
    assert "more than the machine explains" in (found[ALL_CELLS].reason or "")


def beside_reference(factor: float, machine: float, cells: int = 4) -> dict[Cell, Timed]:
    """Two nights of few cells that timed the reference step; its speed follows the machine, the product's does not."""
    made = night({f"cell {i}": factor for i in range(cells)}, machine)
    return {
        cell: dataclasses.replace(
            one,
            old_reference=seeds(100.0, 101.0, 99.0),
            new_reference=seeds(*(machine * each for each in (99, 101, 100))),
        )
        for cell, one in made.items()
    }


@pytest.mark.parametrize("machine", [0.85, 1.0, 1.15])
def test_a_tenth_in_all_cells_is_found_beside_the_reference_step(machine: float) -> None:
    found = judged(beside_reference(1 / 1.1, machine))
    assert found[ALL_CELLS].verdict == "regressed"
    assert {each.verdict for each in found.values()} <= {"regressed", "cannot tell"}
    assert found[ALL_CELLS].change == pytest.approx(1 / 1.1 - 1, abs=0.02)
    assert "the machine's reference step by" in (found[ALL_CELLS].reason or "")
    quiet = judged(beside_reference(1.0, machine))
    assert {each.verdict for each in quiet.values()} <= {"unchanged", "cannot tell"}
    few = judged(beside_reference(0.8, machine, cells=2))
    assert [each.verdict for each in few.values()] == ["regressed"] * 2


def timed_alike(seconds: Mapping[str, float], rounds: Mapping[Seed, float]) -> dict[str, Timed]:
    """Two nights of cells without noise; cells are slower by a factor, and the rounds of the second night faster."""
    made = {}
    for place, (name, factor) in enumerate(seconds.items()):
        own = {seed: (1000.0 + 10 * place) * (1 + 0.001 * ((7 * place + (seed or 0)) % 5)) for seed in rounds}
        new = {seed: value * rounds[seed] / factor for seed, value in own.items()}
        made[name] = Timed(own, new, dict.fromkeys(rounds, 1e9), {s: 1e9 * each for s, each in rounds.items()})
    return made


def with_reference(one: Timed, new: Values) -> Timed:
    return dataclasses.replace(one, old_reference=dict.fromkeys(new, 100.0), new_reference=new)


STEADY: Values = seeds(1.0, 1.0, 1.0)


def test_a_clock_that_few_cells_have_does_not_say_what_the_machine_did() -> None:
    cells = timed_alike({f"{i}": 1.3 if i < 4 else 1.0 for i in range(20)}, STEADY)
    made = {
        ("nano", name): with_reference(one, seeds(100, 100, 100)) if int(name) < 4 else one
        for name, one in cells.items()
    }
    found = judged(made)
    assert [found[name].verdict for name in cells] == ["regressed"] * 4 + ["unchanged"] * 16
    assert found[ALL_CELLS].verdict != "regressed"
    assert "the machine's matrix product by +0.0 %" in (found[ALL_CELLS].reason or "")


def test_cells_without_the_clock_of_most_cells_are_judged_as_the_others() -> None:
    cells = timed_alike({f"{i}": 1.3 if i < 8 else 1.0 for i in range(20)}, seeds(1.1, 1.1, 1.1))
    made = {
        ("nano", name): with_reference(one, seeds(110, 110, 110)) if int(name) < 14 else one
        for name, one in cells.items()
    }
    found = judged(made)
    assert [found[name].verdict == "regressed" for name in cells] == [True] * 8 + [False] * 12
    assert found[ALL_CELLS].verdict != "regressed"
    assert "the machine's reference step by +10.0 %" in (found[ALL_CELLS].reason or "")


@pytest.mark.parametrize("cells", [3, 14])
@pytest.mark.parametrize("apart", [0, 5])
def test_a_clock_of_some_trials_of_a_cell_does_not_add_the_drift_of_its_rounds(cells: int, apart: int) -> None:
    rounds: Values = seeds(1.0, 0.85, 0.7)
    made = timed_alike({f"{i}": 1.0 for i in range(cells)}, rounds)
    some = {
        ("nano", name): dataclasses.replace(
            one,
            new={(seed or 0) + apart: value for seed, value in one.new.items()},
            new_clock={(seed or 0) + apart: value for seed, value in one.new_clock.items()},
            old_reference={2: 100.0},
            new_reference={2 + apart: 70.0},
        )
        for name, one in made.items()
    }
    found = judged(some)
    assert {each.verdict for each in found.values()} <= {"unchanged", "cannot tell"}
    assert all(abs(each.change or 0.0) < 0.01 for each in found.values())


def test_what_all_cells_of_one_base_model_did_is_not_told_of_another() -> None:
    made = {
        (base, name): with_reference(one, seeds(100, 100, 100))
        for base, count, factor in (("A", 9, 1.0), ("B", 11, 1.3))
        for name, one in timed_alike({f"{i}": factor for i in range(count)}, STEADY).items()
    }
    found = speed.judge(SPEED, made, 0.05, 0.08)
    assert {each.verdict for each in found if each.base == "A"} <= {"unchanged", "cannot tell"}
    assert {each.verdict for each in found if each.base == "B"} == {"regressed"}
    assert [each.key for each in found[:2]] == [("A", ALL_CELLS), ("B", ALL_CELLS)]
    assert [each.key for each in found[2:]] == list(made)


def test_base_models_of_few_cells_are_judged_together_and_what_moved_is_told_of_those_that_did() -> None:
    made = {
        (base, name): with_reference(one, seeds(100, 100, 100))
        for base, count, factor in (("A", 2, 1.0), ("B", 3, 1.3))
        for name, one in timed_alike({f"{i}": factor for i in range(count)}, STEADY).items()
    }
    first = {each.base: each for each in speed.judge(SPEED, made, 0.05, 0.08) if each.cell == ALL_CELLS}
    assert [(base, each.verdict) for base, each in first.items()] == [("A", "cannot tell"), ("B", "regressed")]
    assert (first["A"].reason or "").endswith("more than the machine explains, but the cells of A moved by +0.0 %")


def test_cells_without_the_change_that_most_cells_share_are_not_called_faster() -> None:
    found = judged(night({name: 0.5 if int(name[-1]) < 7 else 1.0 for name in ALIKE}))
    assert [found[name].verdict == "regressed" for name in ALIKE] == [int(name[-1]) < 7 for name in ALIKE]
    assert {found[name].verdict for name in ("cell 7", "cell 8", "cell 9")} <= {"unchanged", "cannot tell"}


def test_a_change_below_the_least_one_is_none_and_noise_is_told() -> None:
    assert judged(night(ALIKE | {"cell 3": 0.9}), least=0.2)["cell 3"].verdict == "unchanged"
    noisy = judged(night(ALIKE | {"cell 3": 0.9}, sd=0.2))["cell 3"]
    assert (noisy.verdict, noisy.reason) == ("cannot tell", "the noise is too large for the least change that counts")


@pytest.mark.parametrize("clocked", [True, False])
def test_few_cells_are_judged_with_what_the_machine_does_from_night_to_night(clocked: bool) -> None:
    assert judged(night({"a": 0.9, "b": 1.0}, clocked=clocked))["a"].verdict == "cannot tell"
    assert judged(night({"a": 0.5, "b": 1.0}, clocked=clocked))["a"].verdict == "regressed"
    assert judged(night({"a": 1.7}, clocked=clocked, trials=1))["a"].verdict == "improved"


def test_speeds_of_other_seeds_are_compared_by_their_means() -> None:
    cells = night(ALIKE | {"cell 3": 0.6})
    later = {
        key: Timed(one.old, {seed + 5: value for seed, value in one.new.items() if seed is not None}, {}, {})
        for key, one in cells.items()
    }
    found = judged(later)
    assert found["cell 3"].verdict == "regressed"
    assert "regressed" not in {each.verdict for name, each in found.items() if name != "cell 3"}


def drifting(values: Values) -> dict[Seed, float]:
    return {seed: value * (1 + 0.15 * (seed or 0)) for seed, value in values.items()}


def test_drift_within_a_night_is_no_noise_if_seeds_run_one_after_another() -> None:
    cells = {
        key: Timed(one.old, drifting(one.new), one.old_clock, drifting(one.new_clock))
        for key, one in night(ALIKE).items()
    }
    assert {each.verdict for name, each in judged(cells).items() if name != ALL_CELLS} == {"unchanged"}


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        (1e-5, 1e-5, "unchanged"),
        (1e-5, 1.9e-5, "unchanged"),
        (1e-5, 2.1e-5, "regressed"),
        (3e-5, 1e-5, "improved"),
        (0.0, 1e-5, "cannot tell"),
        (0.0, 0.0, "unchanged"),
    ],
)
def test_the_error_of_merging_may_grow_by_a_factor(old: float, new: float, verdict: str) -> None:
    quantity = BY_NAME["largest_merge_logit_difference"]
    assert merge.judge(CELL, quantity, {0: old}, {0: new}, 2.0).verdict == verdict


DECODE = BY_NAME["decode_times_base"]


def costs(
    changed: Mapping[int, float], cells: int = 10, sd: float = 0.01
) -> dict[Cell, tuple[list[float], list[float]]]:
    draw = random.Random(f"{changed} {cells}")
    return {
        ("nano", f"cell {i}"): (
            [math.log(1.5) + draw.gauss(0, sd) for _ in range(5)],
            [math.log(1.5 * changed.get(i, 1.0)) + draw.gauss(0, sd) for _ in range(5)],
        )
        for i in range(cells)
    }


def test_inference_cost_is_judged_by_the_spread_of_the_cells() -> None:
    found = inference.judge(DECODE, costs({3: 1.3, 4: 0.7}), 0.05)
    assert [each.verdict for each in found[3:5]] == ["regressed", "improved"]
    assert {each.verdict for each in (*found[:3], *found[5:])} == {"unchanged"}
    assert found[3].new == pytest.approx(1.95, rel=0.03)


def test_the_same_measurement_of_inference_cost_is_unchanged() -> None:
    noisy = {cell: (old, old) for cell, (old, _) in costs({}, sd=0.5).items()}
    assert {each.verdict for each in inference.judge(DECODE, noisy, 0.05)} == {"unchanged"}


def test_inference_cost_of_few_cells_counts_if_it_is_beyond_what_processes_differ() -> None:
    assert [each.verdict for each in inference.judge(DECODE, costs({0: 1.1}, 2), 0.05)] == ["cannot tell"] * 2
    assert inference.judge(DECODE, costs({0: 2.0}, 2), 0.05)[0].verdict == "regressed"


@pytest.mark.parametrize(
    ("text", "decode"),
    [
        *((text, ()) for text in (None, "", "{", "[]", '{"prompts": 4}', '{"seconds": 3}')),
        ('{"seconds": {"tuned": {"1": [[]]}}}', ()),
        ('{"prompts": 1, "seconds": {"tuned": {"1": [[null, 1]]}, "bare": {"1": [[null, 1]]}}}', (0.0,)),
    ],
)
def test_inference_cost_that_is_not_stored_has_no_repeats(text: str | None, decode: tuple[float, ...]) -> None:
    assert inference.prefill({"inference_json": text}) == ()
    assert inference.decode({"inference_json": text}) == decode


JUDGE = BY_NAME["score_judge"]


def test_a_single_false_alarm_among_many_scores_is_corrected_away() -> None:
    limits = scores.Limits(0.0, 0.02)
    alone = {CELL: scores.Compared(seeds(0.9), seeds(0.88), scores.Difference(-0.02, 0.009, math.inf))}
    assert scores.judge(JUDGE, alone, dict.fromkeys(alone, limits))[0].verdict == "regressed"
    many = alone | {
        ("nano", f"{i}"): scores.Compared(seeds(0.9), seeds(0.901), scores.Difference(0.001, 0.009, math.inf))
        for i in range(9)
    }
    found = scores.judge(JUDGE, many, dict.fromkeys(many, limits))
    assert found[0].verdict == "cannot tell"
    assert {each.verdict for each in found[1:]} == {"unchanged"}


@pytest.mark.parametrize("apart", [False, True])
def test_seeds_that_do_not_differ_have_the_error_over_examples(apart: bool) -> None:
    old, new = seeds(0.612, 0.612), {5: 0.58, 6: 0.58} if apart else seeds(0.58, 0.58)
    assert scores.over_seeds(old, new) is None
    found = scores.over_seeds(old, new, (0.013, 0.014))
    assert found is not None
    assert (found.value, found.error) == (pytest.approx(-0.032), pytest.approx(math.hypot(0.013, 0.014)))
    step = scores.over_seeds(seeds(0.61, 0.62), seeds(0.60, 0.61), (0.013, 0.014))  # each one step of 1/n lower
    assert step is not None
    assert step.beyond(0.0) > 0.05
    (told,) = scores.judge(JUDGE, {CELL: scores.Compared(old, new, None)}, {CELL: scores.Limits(0.0, 0.02)})
    assert (told.verdict, told.reason) == ("cannot tell", scores.NO_SPREAD)


def test_a_seed_that_gave_the_same_again_is_what_is_compared_and_shown() -> None:
    sides = {CELL: scores.Compared(seeds(0.612, 0.7), {0: 0.612, 7: 0.5}, scores.Difference(-0.1, 0.1, 2.0))}
    (found,) = scores.judge(JUDGE, sides, {CELL: scores.Limits(0.0, 0.02)})
    assert (found.verdict, found.old, found.new, found.trials, found.change) == ("unchanged", 0.612, 0.612, (1, 1), 0)


@pytest.mark.parametrize(("tolerated", "verdict"), [(0.0, "regressed"), (0.05, "unchanged")])
def test_a_fall_of_a_score_can_be_tolerated(tolerated: float, verdict: str) -> None:
    cell = {CELL: scores.Compared(seeds(0.9), seeds(0.86), scores.Difference(-0.04, 0.004, math.inf))}
    limits = scores.Limits(tolerated, max(0.02, tolerated))
    assert scores.judge(JUDGE, cell, {CELL: limits})[0].verdict == verdict


def test_noise_of_paired_and_unpaired_trials_is_on_one_scale() -> None:
    draw = random.Random(0)
    old, new = ({seed: draw.gauss(0, 1) for seed in range(4000)} for _ in range(2))
    paired, apart = noise.moves(old, new), noise.moves(old, {seed + 9000: value for seed, value in new.items()})
    assert paired is not None
    assert apart is not None
    for each in (paired, apart):
        (variance, _) = noise.pooled([each]) or (0.0, 0)
        assert variance == pytest.approx(2, rel=0.1)
        assert variance * each.weight == pytest.approx(2 / 4000, rel=0.1)
    assert noise.moves({}, new) is None
    assert noise.spread_over_cells([0.0, 0.1, 0.2]) is None


def test_memory_that_was_zero_is_not_unchanged_when_it_is_not_any_more() -> None:
    (same,) = memory.judge(PEAK, {CELL: (seeds(0), seeds(0))}, 0.0)
    (other,) = memory.judge(PEAK, {CELL: (seeds(0), seeds(5))}, 0.0)
    assert (same.verdict, same.change) == ("unchanged", 0.0)
    assert (other.verdict, other.change) == ("cannot tell", None)


def test_one_cell_that_repeats_exactly_does_not_speak_for_cells_with_one_trial_a_side() -> None:
    alone = {("nano", f"{i}"): (seeds(1000), seeds(1000 + i / 100)) for i in range(5)}
    found = memory.judge(PEAK, {CELL: (seeds(1000, 1000), seeds(1001, 1001)), **alone}, 0.0)
    assert [each.key for each in found] == [CELL, *alone]
    assert [each.verdict for each in found] == ["regressed", *["unchanged"] * 5], "within 1 %"
    few = memory.judge(PEAK, {CELL: (seeds(1000, 1000), seeds(1000, 1000)), ("nano", "a"): (seeds(9), seeds(8))}, 0.0)
    assert [each.verdict for each in few] == ["unchanged", "cannot tell"]


def test_what_all_cells_of_two_bases_did_together_is_told_of_both() -> None:
    cells = {
        (f"base {int(name[-1]) % 2}", name): dataclasses.replace(
            each, old_reference=each.old_clock, new_reference=each.new_clock
        )
        for (_, name), each in night(dict.fromkeys(ALIKE, 0.5)).items()
    }
    found = speed.judge(SPEED, cells, 0.05, 0.08)
    assert [each.key for each in found if each.cell == ALL_CELLS] == [("base 0", ALL_CELLS), ("base 1", ALL_CELLS)]
    assert {each.verdict for each in found} == {"regressed"}
