from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pandas as pd
import pytest

from peftbench.errors import UserError
from peftbench.report.notes import busy
from peftbench.results.busy_machine import BusyTrials, busy_trials, waiting_share
from peftbench.results.crossed_effects.student import t_quantile
from peftbench.results.rows import latest_rows, rows_of_grid, rows_without_progress
from peftbench.results.seeds import (
    Spread,
    half_width_from_one_side,
    half_width_over_examples,
    measured_columns,
    paired_interval,
    spread_of,
    summarize,
    welch_interval,
)
from peftbench.results.settings import flatten
from peftbench.results.store import read_trials, write
from tests.support.results_factory import make_grid, make_result


def trials(folder: Path, *results: object) -> pd.DataFrame:
    for result in results:
        write(folder, result)  # type: ignore[arg-type]
    return read_trials(folder)


def test_mean_spread_and_interval_are_the_textbooks() -> None:
    found = spread_of([1.0, 2.0, 3.0, 4.0])
    assert found is not None
    assert (found.n, found.mean, found.minimum, found.maximum) == (4, 2.5, 1.0, 4.0)
    assert found.sd == pytest.approx(1.2909944487)
    assert found.half_width == pytest.approx(3.1824463053 * 1.2909944487 / 2)  # t table: 3 degrees of freedom


@pytest.mark.parametrize(("freedom", "table"), [(1, 12.7062), (2, 4.3027), (9, 2.2622), (1000, 1.9623)])
def test_t_quantiles_are_the_tables(freedom: int, table: float) -> None:
    assert t_quantile(freedom) == pytest.approx(table, abs=5e-5)


def test_one_value_has_no_spread_and_none_is_nothing() -> None:
    found = spread_of([0.5])
    assert found is not None
    assert (found.n, found.mean, found.sd, found.half_width) == (1, 0.5, None, None)
    assert spread_of([]) is None
    assert spread_of([None, math.nan, pd.NA, math.inf]) is None
    assert spread_of([None, 0.0]).mean == 0.0  # type: ignore[union-attr]


def test_welch_agrees_with_scipy() -> None:
    from scipy import stats

    one, other = [0.81, 0.84, 0.79], [0.90, 0.88, 0.93, 0.87]
    difference, half_width = welch_interval(spread_of(one), spread_of(other))  # type: ignore[misc, arg-type]
    interval = stats.ttest_ind(other, one, equal_var=False).confidence_interval(0.95)
    assert (difference - half_width, difference + half_width) == pytest.approx((interval.low, interval.high))
    assert welch_interval(spread_of([1.0]), spread_of(other)) is None  # type: ignore[arg-type]


def test_the_interval_of_a_difference_holds_for_the_smallest_spreads():
    one, other = Spread(3, 1.0, 1e-120, 1.0, 1.0, None), Spread(2, 1.0, 2e-120, 1.0, 1.0, None)
    found = welch_interval(one, other)
    large = welch_interval(dataclasses.replace(one, sd=1.0), dataclasses.replace(other, sd=2.0))
    assert found is not None
    assert large is not None
    assert found[1] == pytest.approx(large[1] * 1e-120)
    flat = dataclasses.replace(one, sd=0.0)
    assert welch_interval(flat, flat) == (0.0, 0.0)


def test_only_ok_rows_enter_the_means_and_the_others_are_counted(tmp_path: Path) -> None:
    (summary,) = summarize(
        trials(
            tmp_path,
            make_result(seed=0, scores={"judge": 0.8}),
            make_result(seed=1, scores={"judge": 0.9}),
            make_result(seed=2, status="oom", message="too big", peak_train_bytes=1),
        )
    )
    assert (summary.ok, summary.counts, summary.messages) == (2, {"ok": 2, "oom": 1}, ("too big",))
    assert summary.spreads["score_judge"].n == 2
    assert summary.mean("score_judge") == pytest.approx(0.85)
    assert summary.mean("peak_train_bytes") == 3_800_000
    assert summary.mean("score_of_nothing") is None
    assert summary.mean("best_validation_loss") is None


def test_the_grid_gives_one_summary_per_cell_in_its_order(tmp_path: Path) -> None:
    found = summarize(read_trials(make_grid(tmp_path, steps=2, examples=1)))
    assert len(found) == 15
    assert {s.cell: s.counts for s in found if s.counts != {"ok": 3}} == {
        "base fp32": {"ok": 1},
        "full fp32": {"ok": 2, "oom": 1},
        "full nf4": {"unsupported": 3},
    }
    base = found[0]
    assert (base.cell, base.rank, base.spreads["score_judge"].sd) == ("base fp32", None, None)
    assert base.mean("peak_train_bytes") is None
    assert found[-1].spreads == {}


def test_settings_are_not_summarized_and_what_is_measured_is() -> None:
    names = measured_columns(["rank", "seed", "learning_rate", "threads", "key", "wall_seconds", "score_x", "chance_x"])
    assert names == ["wall_seconds", "score_x", "chance_x"]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("device", ("cpu", "cuda")),
        ("memory_kind", ("tensor_accounting", "allocator")),
        ("protocol", (1, 2)),
        ("base_sha256", ("a", "b")),
        ("data_sha256", ("a", "b")),
    ],
)
def test_rows_that_are_not_comparable_are_not_pooled(
    tmp_path: Path, column: str, values: tuple[object, object]
) -> None:
    rows = [make_result(seed=i, **{column: value}) for i, value in enumerate(values)]
    with pytest.raises(UserError) as caught:
        summarize(trials(tmp_path, *rows))
    assert all(str(part) in str(caught.value) for part in (column, *values))


def test_seeds_with_other_settings_are_not_pooled_but_the_seed_may_differ(tmp_path: Path) -> None:
    def row(seed: int, steps: int) -> object:
        return make_result(seed=seed, settings_json=json.dumps({"seed": seed, "train": {"steps": steps}}))

    assert len(summarize(trials(tmp_path / "same", row(0, 30), row(1, 30)))) == 1
    with pytest.raises(UserError, match=r"lora r=8 fp32: .*train\.steps.*30 and 40"):
        summarize(trials(tmp_path / "other", row(0, 30), row(1, 40)))


def test_the_latest_rows_have_no_trial_with_older_settings(tmp_path: Path) -> None:
    older = make_result(key="a1", scores={"judge": 0.1}, finished_at="2026-11-21T00:00:00+00:00")
    base = make_result("base fp32", "base", rank=None, seed=None)
    both = trials(tmp_path, make_result(key="b2", scores={"judge": 0.7}), older, base)
    with pytest.raises(UserError, match="lora r=8 fp32: a seed has two rows"):
        summarize(both)
    assert set(latest_rows(both)["key"]) == {"b2", base.row.key}


def test_nested_settings_become_dotted_names() -> None:
    nested = {"train": {"steps": 3, "data": [["a", 1.0]]}, "tasks": [{"name": "judge", "limit": 9}], "options": {}}
    assert flatten(nested) == {"train.steps": 3, "train.data": [["a", 1.0]], "tasks.judge.limit": 9}
    assert flatten({"gpus": [{"memory": 1}, {"memory": 2}], "none": None}) == {
        "gpus.0.memory": 1,
        "gpus.1.memory": 2,
        "none": None,
    }


def test_paired_differences_agree_with_scipy() -> None:
    from scipy import stats

    old, new = [0.90, 0.80, 0.70], [0.85, 0.78, 0.72]
    difference, half_width = paired_interval(b - a for a, b in zip(old, new, strict=True))  # type: ignore[misc]
    interval = stats.ttest_rel(new, old).confidence_interval(0.95)
    assert (difference - half_width, difference + half_width) == pytest.approx((interval.low, interval.high))
    assert paired_interval([0.1]) is None


def test_errors_over_examples_add_as_squares() -> None:
    assert half_width_over_examples(0.03, 0.04) == pytest.approx(1.959964 * 0.05)
    assert half_width_over_examples(None, 0.04) is None


def test_the_rows_of_a_grid_are_in_its_order(tmp_path: Path) -> None:
    rows = trials(tmp_path, *(make_result(seed=seed, key=f"k{seed}") for seed in range(4)))
    assert list(rows_of_grid(rows, ["k3", "not-run", "k1"])["key"]) == ["k3", "k1"]
    assert len(rows_of_grid(rows, None)) == 4
    with pytest.raises(UserError, match="none of the 1 trials of the last command has a result yet, only 4"):
        rows_of_grid(rows, ["x"])


@pytest.mark.parametrize(
    ("waiting", "threads", "device", "share"),
    [
        (0.1, 1, "cpu", 0.01),
        (4.0, 1, "cpu", 0.4),
        (0.9, 2, "cpu", 0.045),
        (0.9, 2, "cuda", 0.09),
        (None, 1, "cpu", None),
        (float("nan"), 1, "cpu", None),
    ],
)
def test_the_share_of_waiting_is_over_all_threads_of_a_cpu_trial(
    waiting: float | None, threads: int, device: str, share: float | None
) -> None:
    row = {"train_waiting_seconds": waiting, "train_seconds": 10.0, "threads": threads, "device": device}
    assert waiting_share(row) == (None if share is None else pytest.approx(share))
    assert waiting_share({}) is None
    measured = {name.replace("train", "inference"): value for name, value in row.items()}
    assert waiting_share(measured, "inference") == waiting_share(row)
    assert waiting_share(measured) is None


def test_a_reason_is_listed_once_though_each_seed_has_its_log(tmp_path: Path) -> None:
    made = [make_result(seed=i, status="error", message=f"broken; log: logs/{i}.log") for i in range(3)]
    other = make_result(seed=3, status="error", message="slow")
    (summary,) = summarize(trials(tmp_path, *made, other))
    assert len(summary.messages) == 2
    assert summary.reasons == ("broken", "slow")
    assert summary.messages[0].startswith("broken; log: logs/")


def test_busy_trials_are_counted_among_those_whose_waiting_is_known(tmp_path: Path) -> None:
    measured = {"train_seconds": 10.0, "threads": 1}
    waits = (0.1, 5.0, None)
    found = trials(tmp_path, *(make_result(seed=i, train_waiting_seconds=w, **measured) for i, w in enumerate(waits)))
    known = busy_trials(found)
    assert known == BusyTrials(count=1, known=2, largest_share=0.5)
    assert busy_trials(found[found["seed"] != 1]) is None
    assert busy.sentence(known).startswith(
        "Times of 1 of 2 trials are unreliable: the machine was busy (threads waited for a CPU in up to 50"
    )
    assert busy.sentence(known, "inference").startswith("Rates and latencies of 1 of 2 trials")


def test_the_spread_of_one_side_stands_for_both_if_the_other_has_one_seed() -> None:
    one, several = spread_of([0.5]), spread_of([0.1, 0.2, 0.3])
    half_width = half_width_from_one_side(one, several)  # type: ignore[arg-type]
    assert half_width == pytest.approx(4.3027 * 0.1 * (1 + 1 / 3) ** 0.5, rel=1e-4)
    assert half_width_from_one_side(several, one) == half_width  # type: ignore[arg-type]
    assert half_width_from_one_side(one, one) is None  # type: ignore[arg-type]


def test_rows_without_progress_are_ok_trials_whose_loss_did_not_fall() -> None:
    rows = [("a", "ok", 1.0, 0.5), ("b", "ok", 1.0, 1.0), ("c", "oom", 1.0, 2.0), ("base", "ok", None, None)]
    found = rows_without_progress(pd.DataFrame(rows, columns=["cell", "status", "first_loss", "last_loss"]))
    assert list(found["cell"]) == ["b"]
