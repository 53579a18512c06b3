"""Training rates with their intervals, padding, FLOPs and energy."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import random
from pathlib import Path

import pandas as pd
import pytest

from peftbench import report
from peftbench.report import collect
from peftbench.report.derived import rates
from peftbench.report.derived.significance import significance
from peftbench.report.notes import speed
from peftbench.report.payload.attempt import Pieces
from peftbench.report.payload.columns import columns
from peftbench.results import seeds
from peftbench.results.crossed_effects.student import t_quantile
from tests.support.results_factory import make_result, store


def steps(seconds, tokens=100, untimed=0):
    made = [
        {"step": i + 1, "untimed": i < untimed, "seconds": s, "nonpadding_tokens": tokens}
        for i, s in enumerate(seconds)
    ]
    return pd.DataFrame(made)


def notes(folder: Path) -> str:
    results = collect.collect(folder)
    return " ".join([*speed.cautions(results), *speed.notes(results)])


def test_steady_steps_give_median_percentiles_and_rate():
    found = rates.steady(steps([9.0, *(n / 100 for n in range(1, 102))], untimed=1))
    assert found is not None
    assert (found.n, found.median) == (101, 0.51)
    assert (found.p5, found.p95) == pytest.approx((0.06, 0.96))
    assert found.rate == pytest.approx(100 * 101 / 51.51)
    assert rates.steady(steps([1.0], untimed=1)) is None


def test_the_interval_of_three_steps_is_that_of_a_ratio():
    tokens, seconds = [100, 120, 90], [1.0, 1.3, 0.8]
    rate = 310 / 3.1
    error = sum((t - rate * s) ** 2 for t, s in zip(tokens, seconds, strict=True)) / 6
    assert rates.rate_half_width(tokens, seconds) == pytest.approx(t_quantile(2) * error**0.5 / (3.1 / 3))
    assert rates.rate_half_width([1, 1], [1.0, 1.1]) is None


def test_the_interval_holds_the_true_rate_in_about_95_of_100_runs_of_steps_that_drift():
    draw, inside = random.Random(0), 0
    for _ in range(400):
        load, seconds = 0.0, []
        for _ in range(100):
            load = 0.5 * load + draw.gauss(0, 0.05)  # a slow step is followed by a slow one
            seconds.append(1.0 + load)
        found = rates.steady(steps(seconds))
        assert found is not None
        inside += abs(found.rate - 100) <= found.half_width
    assert 0.88 <= inside / 400 <= 0.98


def test_padding_is_a_share_of_the_data_positions():
    row = {"processed_tokens": 140, "nonpadding_tokens": 75, "examples_seen": 4}
    assert rates.padding(row, 10) == pytest.approx(0.25)
    assert rates.padding(row, 0) == pytest.approx(1 - 75 / 140)
    assert rates.padding({**row, "examples_seen": None}, 10) is None
    assert rates.padding({}, 0) is None


def test_utilization_is_relative_to_the_measured_rate_and_unknown_stays_unknown():
    row = {"train_flops_per_token": 6e6, "processed_tokens_per_second": 1e4, "device_flops_per_second": 1e11}
    assert (rates.achieved(row), rates.utilization(row)) == (6e10, 0.6)
    assert rates.utilization({**row, "device_flops_per_second": None}) is None
    assert rates.achieved({**row, "train_flops_per_token": pd.NA}) is None
    assert rates.utilization({}) is None


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"energy_source": "rapl", "workers": 1}, 4.0),
        ({"energy_source": "rapl", "workers": 2}, None),
        ({"energy_source": "nvml", "workers": 2, "other_gpu_processes": 0}, 4.0),
        ({"energy_source": "nvml", "workers": 2, "other_gpu_processes": 1}, None),
        ({"energy_source": "nvml", "workers": 1, "other_gpu_processes": None}, 4.0),
        ({"train_energy_joules": None}, None),
        ({"train_energy_joules": 0.0}, None),
    ],
)
def test_samples_per_joule_are_known_only_if_the_counter_covered_this_trial_alone(row, expected):
    assert rates.samples_per_joule({"train_energy_joules": 25.0, "examples_seen": 100} | row) == expected


def cells(folder: Path, **rates: tuple[float, ...]) -> Path:
    """Write a cell ``lora r=N fp32`` for each name rN, a trial for each of its rates."""
    made = [
        make_result(f"lora r={name[1:]} fp32", rank=int(name[1:]), seed=seed, tokens_per_second=rate)
        for name, found in rates.items()
        for seed, rate in enumerate(found)
    ]
    return store(folder, *made)


def test_rates_whose_difference_is_within_its_interval_are_reported_as_such(tmp_path):
    folder = cells(tmp_path / "r", r1=(1000, 1010, 990), r2=(1001, 1012, 989), r4=(2000, 2010, 1990))
    (text,) = speed.notes(collect.collect(folder))
    assert text == (
        "The difference in speed between lora r=1 fp32 and lora r=2 fp32 is not significant (less than the half width "
        "of its 95 % interval)."
    )
    shown = text.replace("lora r=1 fp32", "LoRA r=1").replace("lora r=2 fp32", "LoRA r=2")
    assert shown in " ".join(report.table(folder).split())


def test_of_many_such_pairs_the_closest_is_named(tmp_path):
    folder = cells(tmp_path / "r", r1=(1000, 1300, 900), r2=(1050, 1250, 950), r4=(1000, 1200, 800))
    assert (
        "In 3 of 3 pairs of cells the difference in speed is not significant (less than the half width of its 95 % "
        "interval), e.g. lora r=1 fp32 and lora r=2" in notes(folder)
    )


def test_clearly_different_rates_need_no_note(tmp_path):
    assert notes(cells(tmp_path / "r", r1=(1000, 1010, 990), r2=(2000, 2010, 1990))) == ""


def test_single_trials_are_compared_by_their_steps(tmp_path):
    def trial(rank: int, factor: float, seconds: tuple[float, ...]):
        found = make_result(f"lora r={rank} fp32", rank=rank, steps=6, tokens_per_second=3000 / factor)
        rows = [dataclasses.replace(s, seconds=t) for s, t in zip(found.steps, (1.0, 1.0, *seconds), strict=True)]
        return dataclasses.replace(found, steps=tuple(rows))

    noisy, calm = (0.6, 1.4, 0.7, 1.3), (1.0, 1.001, 0.999, 1.0)
    near = store(tmp_path / "near", trial(1, 1.0, noisy), trial(2, 1.1, noisy))
    assert "lora r=1 fp32 and lora r=2 fp32 is not significant" in notes(near)
    assert notes(store(tmp_path / "far", trial(1, 1.0, calm), trial(2, 1.1, calm))) == ""


def test_pairs_of_rates_are_compared_by_welch_or_over_steps_whichever_is_known():
    draw = random.Random(3)
    spreads, halves = [], []
    for place in range(40):
        same = place % 7 == 0  # trials without any spread
        many = [100.0 if same else draw.gauss(100, 5) for _ in range(draw.choice((1, 1, 2, 3, 5)))]
        spreads.append(seeds.spread_of(many))
        halves.append(draw.choice((None, 2.0)) if len(many) == 1 else spreads[-1].half_width)
    found = {}
    for place, gaps, widths in rates.pair_intervals(spreads, halves):
        found |= {(place, place + 1 + n): pair for n, pair in enumerate(zip(gaps, widths, strict=True))}
    assert list(found) == list(itertools.combinations(range(40), 2))
    for (a, b), (gap, width) in found.items():
        assert gap == abs(spreads[a].mean - spreads[b].mean)
        expected = _half_width(spreads[a], spreads[b], halves[a], halves[b])
        assert math.isnan(width) if expected is None else width == pytest.approx(expected, rel=1e-12, abs=0)


def _half_width(one, other, first, second):
    """One pair's half width, by the formulas of the definition."""
    if one.sd is None or other.sd is None:
        return None if first is None or second is None else math.hypot(first, second)
    a, b = one.sd**2 / one.n, other.sd**2 / other.n
    if a + b == 0:
        return 0.0
    freedom = (a + b) ** 2 / (a**2 / (one.n - 1) + b**2 / (other.n - 1))
    return t_quantile(freedom) * math.sqrt(a + b)


def test_the_closest_pair_is_the_first_of_those_that_are_as_close(tmp_path):
    found = rates.compare_rates(collect.collect(cells(tmp_path / "r", r1=(9, 11), r2=(9, 11), r4=(9, 11), r8=(90, 91))))
    assert (found.known, found.alike) == (6, 3)
    assert [cell.rank for cell in found.closest] == [1, 2]  # type: ignore[union-attr]


def test_a_cell_without_a_speed_has_a_reason(tmp_path):
    folder = store(tmp_path / "r", make_result(tokens_per_second=None))
    assert notes(folder) == "No speed for lora r=8 fp32: fewer than 3 steps after the warm-up steps."


def test_a_shared_and_a_throttled_gpu_are_reported(tmp_path):
    state = {"start": {"slowed_by": ["gpu_idle"]}, "end": {"slowed_by": ["sw_power_cap", "gpu_idle"]}}
    shared = {"device": "cuda", "memory_kind": "allocator"}
    made = [
        make_result(seed=0, other_gpu_processes=1, device_state_json=json.dumps(state), **shared),
        make_result(
            seed=1, other_gpu_processes=0, device_state_json=json.dumps({"end": {"slowed_by": None}}), **shared
        ),
    ]
    text = notes(store(tmp_path / "r", *made))
    assert "Times of 1 of 2 trials are unreliable: the machine was busy (another process used the GPU)." in text
    assert "The GPU was throttled (sw_power_cap) at the end of training in 1 of 2 trials." in text


def test_the_page_shows_rates_padding_work_and_energy(tmp_path):
    measured = {
        "processed_tokens_per_second": 40_000.0,
        "loss_tokens_per_second": 2_000.0,
        "processed_tokens": 120,
        "nonpadding_tokens": 90,
        "examples_seen": 96,
        "train_flops_per_token": 6e6,
        "device_flops_per_second": 1e12,
        "train_energy_joules": 48.0,
        "energy_source": "nvml",
    }
    folder = store(tmp_path / "r", *(make_result(seed=s, steps=8, **measured) for s in range(2)))
    found = shown(folder)
    assert (found["processed_tokens_per_second"], found["loss_tokens_per_second"]) == (40_000, 2_000)
    assert (found["padding"], found["step_p5"], found["step_p95"]) == pytest.approx((0.25, 0.02, 0.02))
    assert (found["achieved_flops"], found["utilization"]) == pytest.approx((240e9, 0.24))
    assert (found["train_energy_joules"], found["samples_per_joule"]) == (48, 2)


def test_what_rows_do_not_have_is_no_column(tmp_path):
    found = shown(store(tmp_path / "r", make_result()))
    missing = ("processed_tokens_per_second", "padding", "achieved_flops", "utilization", "samples_per_joule")
    assert not found.keys() & set(missing)


def shown(folder: Path) -> dict[str, object]:
    """Return the value of the first cell in every column of the page."""
    results = collect.collect(folder)
    return {column.name: column.values[0] for column in columns(results, significance(results), Pieces())}


def test_the_terminal_table_has_the_spread_of_train_time_and_speed(tmp_path):
    folder = cells(tmp_path / "r", r1=(1000, 1100, 900), r2=(2000,))
    lines = {line[:8]: line for line in report.table(folder).splitlines()}
    assert " 1,000±10% " in lines["LoRA r=1"]
    assert " 0.600±0% " in lines["LoRA r=1"]
    assert "±" not in lines["LoRA r=2"]
