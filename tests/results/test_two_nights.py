"""Two nights: from results folders to verdicts, what moved beside the numbers, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest

from peftbench.errors import UserError
from peftbench.records.watch import KINDS, Kind, Watch
from peftbench.report.nights import written
from peftbench.results.store import record_grid, write
from peftbench.results.watch.comparison import Comparison, compare
from peftbench.results.watch.findings import ALL_CELLS, Finding
from peftbench.version import PROTOCOL
from tests.support.results_factory import ENVIRONMENT, make_grid, make_result, store

GOLDEN = Path(__file__).parents[1] / "golden"
CELLS = tuple(f"lora r={rank} fp32" for rank in (1, 2, 4, 8, 16, 32))


@pytest.fixture(autouse=True)
def fast_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test cuts the power."""
    monkeypatch.setattr("os.fsync", lambda _: None)


def folder(place: Path, scores: list[float], **fields: Any) -> Path:
    made = [make_result(seed=seed, scores={"judge": score}, **fields) for seed, score in enumerate(scores)]
    return store(place, *made)


def compared(tmp_path: Path, old: list[float], new: list[float], **fields: Any) -> Comparison:
    return compare(folder(tmp_path / "old", old), folder(tmp_path / "new", new, **fields))


def finding(comparison: Comparison, name: str = "score_judge", cell: str | None = None) -> Finding:
    (found,) = [
        each for each in comparison.findings if each.quantity.name == name and (cell is None or each.cell == cell)
    ]
    return found


def night(place: Path, faster: float = 1.0, cells: tuple[str, ...] = CELLS, seeds: int = 3, **changed: Any) -> Path:
    """Write a night of six cells with little noise; the last one is changed and made faster."""
    results = []
    for cell in cells:
        last = cell == cells[-1]
        for seed in range(seeds):
            noise = 1 + 0.004 * math.sin(7 * seed + 11 * cells.index(cell) + sum(map(ord, place.name)))
            more = {"tokens_per_second": 20_000.0 * noise * (faster if last else 1.0), **(changed if last else {})}
            more |= everywhere(changed)
            results.append(make_result(cell, seed=seed, scores={"judge": 0.9 - 0.01 * seed}, **more))
    return store(place, *results)


def everywhere(changed: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in changed.items() if name in ("threads", "workers", "environment_json")}


def nights(tmp_path: Path, faster: float = 1.0, watch: Watch | None = None, **changed: Any) -> Comparison:
    return compare(night(tmp_path / "old"), night(tmp_path / "new", faster, **changed), watch)


def test_a_folder_against_itself_is_unchanged_in_everything(tmp_path: Path) -> None:
    grid = make_grid(tmp_path / "grid", steps=2, examples=1)
    found = compare(grid, grid)
    assert len(found.cells) == 15
    exact = [each for each in found.findings if each.cell not in (ALL_CELLS, "full nf4")]
    assert {each.verdict for each in exact} == {"unchanged"}
    unsupported = finding(found, "ok_share", "full nf4")
    assert unsupported.verdict == "cannot tell"
    assert unsupported.reason == "no trial ended ok on either side: 3 unsupported before, 3 unsupported now"
    assert {each.quantity.kind for each in exact} == {"status", "memory", "speed", "size", "score"}
    assert (found.verdict, found.moved, found.only_old, found.only_new) == (True, (), (), ())


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([0.90, 0.91, 0.92], [0.80, 0.81, 0.83], "regressed"),
        ([0.80, 0.81, 0.82], [0.90, 0.91, 0.93], "improved"),
        ([0.90, 0.80, 0.70], [0.85, 0.75, 0.72], "cannot tell"),
        ([0.90], [0.10], "regressed"),  # by the errors over two examples, 0.21 each
        ([0.90], [0.40], "cannot tell"),
        ([0.90, 0.91], [0.10], "regressed"),
        ([0.90, 0.80, 0.70], [0.88, 0.78, 0.69], "regressed"),  # far less than seeds differ, in each seed
        ([0.90, 0.80], [0.80, 0.90], "cannot tell"),
        ([0.90, 0.90], [0.89, 0.89], "cannot tell"),  # one example of a hundred; no spread is no proof of no noise
        ([0.90, 0.91], [0.90, 0.91], "unchanged"),
        ([0.900, 0.910, 0.920, 0.905], [0.901, 0.909, 0.921, 0.904], "unchanged"),  # within 2 points for sure
    ],
)
def test_a_score_is_judged_by_the_noise_between_seeds(
    tmp_path: Path, old: list[float], new: list[float], expected: str
) -> None:
    found = compared(tmp_path, old, new)
    judged = finding(found)
    assert judged.verdict == expected
    assert found.regressed is (expected == "regressed")
    assert judged.trials == (len(old), len(new))
    assert judged.change == pytest.approx(sum(new) / len(new) - sum(old) / len(old))
    assert (judged.reason is not None) is (expected == "cannot tell")


@pytest.mark.parametrize(
    ("field", "worse", "better", "kind"),
    [
        ("peak_train_bytes", 3_800_001, 3_700_000, "memory"),
        ("peak_evaluate_bytes", 2_200_001, 2_100_000, "memory"),
        ("checkpoint_bytes", 123_481, 100_000, "size"),
        ("base_weights_bytes", 1_048_577, 1_000_000, "size"),
    ],
)
def test_memory_on_the_cpu_and_sizes_are_exact(tmp_path: Path, field: str, worse: int, better: int, kind: Kind) -> None:
    for value, verdict in ((worse, "regressed"), (better, "improved")):
        found = compared(tmp_path / verdict, [0.9, 0.8], [0.9, 0.8], **{field: value})
        judged = finding(found, field)
        assert (judged.verdict, judged.quantity.kind) == (verdict, kind)
        assert [each for each in found.findings if each.verdict == verdict] == [judged]
        assert found.verdict is (verdict == "improved")


@pytest.mark.parametrize("value", [30_719, 40_000])
def test_another_number_of_trained_parameters_is_always_a_regression(tmp_path: Path, value: int) -> None:
    found = compared(tmp_path, [0.9], [0.9], trainable_parameters=value)
    assert finding(found, "trainable_parameters").verdict == "regressed"


def gpu(place: Path, *peaks: int) -> Path:
    fields = {"device": "cuda", "memory_kind": "allocator"}
    return store(place, *(make_result(seed=seed, peak_train_bytes=peak, **fields) for seed, peak in enumerate(peaks)))


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ((1000, 1000, 1000), (1000, 1000, 1000), "unchanged"),
        ((1000, 1000, 1000), (1001, 1001, 1001), "regressed"),
        ((1000, 1010, 1000), (1010, 1000, 1010), "cannot tell"),
        ((1000, 1010, 1000), (1500, 1510, 1500), "regressed"),
        ((1500, 1510, 1500), (1000, 1010, 1000), "improved"),
        ((1000,), (1500,), "cannot tell"),
    ],
)
def test_memory_of_a_gpu_counts_beyond_what_repetitions_differ(
    tmp_path: Path, old: tuple[int, ...], new: tuple[int, ...], verdict: str
) -> None:
    found = compare(gpu(tmp_path / "old", *old), gpu(tmp_path / "new", *new))
    assert finding(found, "peak_train_bytes").verdict == verdict


@pytest.mark.parametrize(("faster", "verdict"), [(0.8, "regressed"), (1.25, "improved"), (1.0, "unchanged")])
def test_speed_is_judged_beyond_noise_and_a_least_change(tmp_path: Path, faster: float, verdict: str) -> None:
    found = nights(tmp_path, faster)
    judged = finding(found, "tokens_per_second", CELLS[-1])
    assert judged.verdict == verdict
    assert judged.low is not None
    assert judged.high is not None
    assert judged.low < faster - 1 < judged.high
    assert {each.cell for each in found.of("regressed")} == ({CELLS[-1]} if verdict == "regressed" else set())


def test_the_least_change_of_speed_is_the_suites_and_an_argument_comes_before_it(tmp_path: Path) -> None:
    assert nights(tmp_path / "a", 0.8, Watch(speed_percent=50)).verdict is True
    old, new = night(tmp_path / "old"), night(tmp_path / "new", 0.8)
    keys = [make_result(cell, seed=seed).row.key for cell in CELLS for seed in range(3)]
    record_grid(new, keys, "peftbench run night", watch=Watch(speed_percent=50))
    assert compare(old, new).verdict is True
    assert compare(old, new, Watch()).verdict is False
    assert compare(new, old).watch == Watch(speed_percent=50)  # the old side's, as the new one says nothing


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"threads": 2}, "threads is 1 and 2"),
        ({"workers": 1}, "workers is 2 and 1"),
        ({"packages": {"torch": "2.14.0"}}, "packages.torch is 2.13.0 and 2.14.0"),
        ({"packages": {"peft": "0.22.0"}}, "packages.peft is 0.21.1 and 0.22.0"),
        ({"cpu": "Another CPU"}, "cpu is Example CPU, 2 cores and Another CPU"),
    ],
)
def test_speeds_of_another_machine_or_other_versions_are_not_compared_and_it_says_why(
    tmp_path: Path, changed: dict[str, Any], why: str
) -> None:
    columns = {name: value for name, value in changed.items() if name in ("threads", "workers")}
    if not columns:
        packages = {**ENVIRONMENT["packages"], **changed.get("packages", {})}  # type: ignore[dict-item]
        columns = {"environment_json": json.dumps({**ENVIRONMENT, **changed, "packages": packages})}
    found = nights(tmp_path, 0.5, **columns)
    speeds = [each for each in found.findings if each.quantity.kind == "speed"]
    assert {(each.verdict, each.reason) for each in speeds} == {("cannot tell", why)}
    assert len(speeds) == len(CELLS)
    assert found.verdict is True  # all else is judged
    moved = found.moved[0]
    assert f"{moved.name} is {moved.old} and {moved.new}".replace('"', "") == why


@pytest.mark.parametrize("name", ["git", "packages.peftbench", "packages.datasets"])
def test_speeds_of_another_version_of_the_code_are_compared(tmp_path: Path, name: str) -> None:
    packages = {**ENVIRONMENT["packages"], name.removeprefix("packages."): "9.9"}  # type: ignore[dict-item]
    other = {**ENVIRONMENT, **({"git": {"commit": "f" * 40}} if name == "git" else {"packages": packages})}
    found = nights(tmp_path, 0.5, environment_json=json.dumps(other))
    assert finding(found, "tokens_per_second", CELLS[-1]).verdict == "regressed"
    assert found.moved[0].name.startswith(name)
    assert "speed" in found.moved[0].may_explain or name == "packages.datasets"


def test_trials_of_a_busy_machine_are_void(tmp_path: Path) -> None:
    found = nights(tmp_path, 0.5, train_seconds=10.0, train_waiting_seconds=4.0)
    judged = finding(found, "tokens_per_second", CELLS[-1])
    assert (judged.verdict, judged.reason) == ("cannot tell", "the machine was busy in every trial of the new side")
    assert found.busy[1] is not None
    assert found.verdict is True
    shared = nights(tmp_path / "gpu", 0.5, other_gpu_processes=1)
    assert finding(shared, "tokens_per_second", CELLS[-1]).verdict == "cannot tell"


def test_a_busy_trial_among_others_is_left_out(tmp_path: Path) -> None:
    old, new = night(tmp_path / "old"), night(tmp_path / "new")
    slow = make_result(CELLS[-1], seed=1, tokens_per_second=900.0, train_seconds=1.0, train_waiting_seconds=0.9)
    write(new, slow, ["judge"])
    judged = finding(compare(old, new), "tokens_per_second", CELLS[-1])
    assert (judged.verdict, judged.trials) == ("unchanged", (3, 2))


def test_a_cell_that_was_ok_and_is_not_is_a_regression(tmp_path: Path) -> None:
    old, new = folder(tmp_path / "old", [0.9, 0.9]), folder(tmp_path / "new", [0.9])
    write(new, make_result(seed=1, status="oom", message="no room for <b>"), ["judge"])
    judged = finding(compare(old, new), "ok_share")
    assert judged.verdict == "regressed"
    assert judged.reason == "2 ok before, 1 ok, 1 oom now: no room for <b>"
    assert finding(compare(new, old), "ok_share").verdict == "improved"
    assert compare(old, new).verdict is False


def test_fewer_ok_seeds_are_a_regression_even_if_some_had_failed_before(tmp_path: Path) -> None:
    for name, failed in (("old", 1), ("new", 2)):
        folder(tmp_path / name, [0.9] * (3 - failed))
        for seed in range(3 - failed, 3):
            write(tmp_path / name, make_result(seed=seed, status="oom"), ["judge"])
    assert compare(tmp_path / "old", tmp_path / "new").verdict is False
    assert compare(tmp_path / "new", tmp_path / "old").verdict is True


def test_nights_in_which_nothing_ended_ok_judge_nothing(tmp_path: Path) -> None:
    for name in ("old", "new"):
        write(tmp_path / name, make_result(status="oom"), ["judge"])
    found = compare(tmp_path / "old", tmp_path / "new")
    assert (finding(found, "ok_share").verdict, found.verdict) == ("cannot tell", None)


def test_equal_statuses_are_nothing_judged_if_no_number_compares(tmp_path: Path) -> None:
    found = compared(tmp_path, [0.9, 0.8], [0.1, 0.2], data_sha256="e" * 64)
    assert compare(found.old, found.new, Watch(judge=("status", "score"))).verdict is None
    assert compare(found.old, found.new, Watch(judge=("status",))).verdict is True
    assert found.verdict is True  # sizes compare


def test_a_cell_of_which_an_unfinished_night_has_no_row_cannot_be_told(tmp_path: Path) -> None:
    old, new = night(tmp_path / "old", seeds=1), night(tmp_path / "new", cells=CELLS[:1], seeds=1)
    assert not [each for each in compare(old, new).findings if each.cell == CELLS[1]]  # --only selects
    record_grid(new, [make_result(cell, seed=0).row.key for cell in CELLS], "peftbench run night")
    found = compare(old, new)
    judged = finding(found, "ok_share", CELLS[1])
    assert judged.verdict == "cannot tell"
    assert judged.reason == "no result yet: the new night's grid has 5 trials without one"
    assert "fp32 and 1 more: no result yet: the new night's grid has 5 trials" in " ".join(written(found).split())
    lost = night(tmp_path / "lost", cells=("lora r=64 fp32",), seeds=1)
    record_grid(lost, [make_result(cell, seed=0).row.key for cell in (*CELLS, "lora r=64 fp32")], "peftbench run night")
    assert compare(old, lost).verdict is None


def test_a_seed_less_is_named_and_one_that_has_no_result_yet_cannot_be_told(tmp_path: Path) -> None:
    old, new = folder(tmp_path / "old", [0.9, 0.8, 0.7]), folder(tmp_path / "new", [0.9, 0.8])
    found = compare(old, new)
    assert [(each.what, each.name, each.old, each.new) for each in found.moved] == [
        ("seeds", "seeds", "0, 1, 2", "0, 1")
    ]
    judged = finding(found, "ok_share")
    assert (judged.verdict, judged.reason) == ("unchanged", "3 ok before, 2 ok now")
    record_grid(new, [make_result(seed=seed).row.key for seed in range(3)], "peftbench run night")
    judged = finding(compare(old, new), "ok_share")
    assert (judged.verdict, judged.reason) == ("cannot tell", "1 of 3 trials have no result yet")


RETAINED = {"retention_sha256": "r" * 64, "retention_loss_before": 2.0}


def retained(place: Path, *losses: float, **more: Any) -> Path:
    made = []
    for seed, loss in enumerate(losses):
        texts = {"tokens": [100, 50, 80], "before": [200.0, 100.0, 160.0]}
        texts["after"] = [100 * loss, 50 * (loss + 0.01), 80 * (loss - 0.01)]
        fields = RETAINED | {"retention_loss_after": loss, "retention_json": json.dumps(texts)} | more
        made.append(make_result(seed=seed, **fields))
    return store(place, *made)


@pytest.mark.parametrize(
    ("old", "new", "verdict"),
    [
        ((2.1, 2.2), (2.1, 2.2), "unchanged"),
        ((2.1, 2.2), (2.5, 2.6), "regressed"),
        ((2.5, 2.6), (2.1, 2.2), "improved"),
        ((2.1, 2.5), (2.5, 2.1), "cannot tell"),
        ((2.1, 2.2, 2.3), (2.101, 2.199, 2.3), "unchanged"),
        ((2.1,), (2.5,), "cannot tell"),  # a run drawn anew moves the loss on all texts
        ((2.1,), (2.1,), "unchanged"),
    ],
)
def test_the_loss_on_general_text_is_judged_for_new_seeds_and_texts(
    tmp_path: Path, old: tuple[float, ...], new: tuple[float, ...], verdict: str
) -> None:
    found = compare(retained(tmp_path / "old", *old), retained(tmp_path / "new", *new))
    assert finding(found, "retention_loss_after").verdict == verdict


def test_losses_without_stored_texts_are_judged_by_their_seeds_and_of_other_texts_not_at_all(tmp_path: Path) -> None:
    bare = {"retention_json": None}
    old = retained(tmp_path / "old", 2.1, 2.11, **bare)
    found = compare(old, retained(tmp_path / "new", 2.6, 2.62, **bare))
    assert finding(found, "retention_loss_after").verdict == "regressed"
    single = compare(retained(tmp_path / "one", 2.1, **bare), retained(tmp_path / "other", 2.6, **bare))
    assert finding(single, "retention_loss_after").verdict == "cannot tell"
    other = compare(old, retained(tmp_path / "texts", 2.6, 2.61, retention_sha256="q" * 64))
    assert (finding(other, "retention_loss_after").reason or "").startswith("retention_sha256 is rrrr")


def inference(ratio: float) -> dict[str, Any]:
    bare = [[0.1, 0.01, 0.011, 0.0105], [0.101, 0.0102, 0.011, 0.0104]]
    tuned = [[ratio * value for value in repeat] for repeat in bare]
    seconds = {name: {"1": each, "4": each} for name, each in (("tuned", tuned), ("bare", bare))}
    return {
        "inference_prompts_sha256": "p" * 64,
        "inference_json": json.dumps({"prompts": 4, "seconds": seconds}),
        "largest_merge_logit_difference": 1e-5,
    }


def costing(place: Path, *ratios: float, **more: Any) -> Path:
    cells = zip(CELLS, ratios, strict=True)
    return store(place, *(make_result(cell, **(inference(ratio) | more)) for cell, ratio in cells))


def test_inference_cost_is_judged_relative_to_the_bare_base_model(tmp_path: Path) -> None:
    old = costing(tmp_path / "old", 1.2, 1.3, 1.4, 1.5, 1.6, 1.7)
    found = compare(old, costing(tmp_path / "new", 1.2, 1.3, 1.4, 1.5, 1.6, 2.4))
    for name in ("prefill_times_base", "decode_times_base"):
        judged = finding(found, name, CELLS[-1])
        assert (judged.verdict, judged.old, judged.new) == ("regressed", pytest.approx(1.7), pytest.approx(2.4))
        assert finding(found, name, CELLS[0]).verdict == "unchanged"
    faster = compare(old, costing(tmp_path / "faster", 1.2, 1.3, 1.4, 1.5, 1.6, 1.2))
    assert finding(faster, "decode_times_base", CELLS[-1]).verdict == "improved"
    other = compare(old, costing(tmp_path / "other", *(1.5,) * 6, inference_prompts_sha256="q" * 64))
    assert {each.verdict for each in other.findings if each.quantity.kind in ("inference", "merge")} == {"cannot tell"}
    refused = finding(other, "decode_times_base", CELLS[0])
    assert (refused.old, refused.new) == (pytest.approx(1.2), pytest.approx(1.5))


@pytest.mark.parametrize(("error", "verdict"), [(1.5e-5, "unchanged"), (1e-3, "regressed"), (1e-7, "improved")])
def test_the_error_of_merging_is_judged_by_a_factor(tmp_path: Path, error: float, verdict: str) -> None:
    old = costing(tmp_path / "old", *(1.5,) * 6)
    found = compare(old, costing(tmp_path / "new", *(1.5,) * 6, largest_merge_logit_difference=error))
    assert {each.verdict for each in found.findings if each.quantity.kind == "merge"} == {verdict}


def test_only_the_kinds_that_are_watched_are_judged(tmp_path: Path) -> None:
    old, new = night(tmp_path / "old"), night(tmp_path / "new", 0.5, peak_train_bytes=9_000_000)
    for kind in KINDS:
        found = compare(old, new, Watch(judge=(kind,)))
        assert {each.quantity.kind for each in found.findings} <= {kind}
    assert compare(old, new, Watch(judge=("retention",))).verdict is None  # nobody measured it
    assert compare(old, new, Watch(judge=("score", "size"))).verdict is True


def test_tolerated_changes_are_none(tmp_path: Path) -> None:
    old = folder(tmp_path / "old", [0.9] * 4)
    new = folder(tmp_path / "new", [0.89, 0.891, 0.889, 0.89], peak_train_bytes=3_810_000, checkpoint_bytes=123_900)
    assert {each.quantity.kind for each in compare(old, new).of("regressed")} == {"score", "memory", "size"}
    watch = Watch(score_points=2, memory_percent=1, size_percent=1)
    assert compare(old, new, watch).verdict is True


def test_what_one_side_did_not_measure_cannot_be_told(tmp_path: Path) -> None:
    found = compared(tmp_path, [0.9], [0.9], peak_train_bytes=None)
    judged = finding(found, "peak_train_bytes")
    assert (judged.verdict, judged.old, judged.new) == ("cannot tell", 3_800_000, None)
    assert judged.reason == "only the old side has it"


@pytest.mark.parametrize(
    ("field", "value", "refused"),
    [
        ("memory_kind", "allocator", {"memory"}),
        ("device", "cuda", {"memory", "speed"}),
        ("protocol", PROTOCOL + 1, {"score", "memory", "speed"}),
        ("data_sha256", "e" * 64, {"score"}),
        ("base_sha256", "e" * 64, {"score"}),
    ],
)
def test_numbers_that_do_not_compare_are_refused_and_the_difference_is_named(
    tmp_path: Path, field: str, value: object, refused: set[str]
) -> None:
    found = compared(tmp_path, [0.9, 0.9], [0.1, 0.1], **{field: value})
    named = [each for each in found.findings if (each.reason or "").startswith(f"{field} is ")]
    assert {each.quantity.kind for each in named} == refused | ({"memory"} if field == "data_sha256" else set())
    assert {each.verdict for each in named} == {"cannot tell"}
    assert found.regressed is ("score" not in refused)
    assert finding(found, "checkpoint_bytes").verdict == "unchanged"


def test_scores_are_refused_cell_by_cell(tmp_path: Path) -> None:
    old, new = folder(tmp_path / "old", [0.9, 0.8]), folder(tmp_path / "new", [0.1, 0.1], data_sha256="e" * 64)
    other = {"cell": "lora r=2 fp32", "rank": 2}
    folder(old, [0.7, 0.6], **other)
    folder(new, [0.7, 0.6], **other)
    found = compare(old, new)
    assert finding(found, cell="lora r=8 fp32").verdict == "cannot tell"
    assert finding(found, cell="lora r=2 fp32").verdict == "unchanged"
    assert [(each.what, each.name, each.cells) for each in found.moved] == [("data", "data_sha256", ("lora r=8 fp32",))]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_scores_of_another_split_are_not_compared(tmp_path: Path, split: str) -> None:
    for name, used in (("old", "test"), ("new", split)):
        folder(tmp_path / name, [0.9, 0.8], settings_json=json.dumps({"evaluation": {"split": used}}))
    judged = finding(compare(tmp_path / "old", tmp_path / "new"))
    expected = ("unchanged", None) if split == "test" else ("cannot tell", "evaluation.split is test and validation")
    assert (judged.verdict, judged.reason) == expected


def test_scores_of_other_metrics_are_not_compared_and_the_metrics_are_named(tmp_path: Path) -> None:
    for name, metric in (("old", "accuracy"), ("new", "matthews")):
        for seed in (0, 1):
            made = make_result(seed=seed, scores={"judge": 0.9 - seed / 10, "free": 0.5})
            scores = json.loads(made.row.scores_json or "")
            scores["judge"]["metric"] = metric
            row = dataclasses.replace(made.row, scores_json=json.dumps(scores))
            write(tmp_path / name, dataclasses.replace(made, row=row), ["judge", "free"])
    found = compare(tmp_path / "old", tmp_path / "new")
    assert finding(found).reason == "the metric is accuracy and matthews"
    assert finding(found, "score_free").verdict == "unchanged"


@pytest.mark.parametrize(("new", "verdict"), [(0.899, "regressed"), (0.901, "improved"), (0.9, "unchanged")])
def test_the_untuned_base_model_has_no_noise(tmp_path: Path, new: float, verdict: str) -> None:
    base = {"cell": "base fp32", "method": "base", "rank": None, "seed": None}
    for name, score in (("old", 0.9), ("new", new)):
        write(tmp_path / name, make_result(scores={"judge": score}, **base), ["judge"])  # type: ignore[arg-type]
    assert finding(compare(tmp_path / "old", tmp_path / "new")).verdict == verdict


@pytest.mark.parametrize(
    ("examples", "changed"),
    [
        (10, {"environment_json": json.dumps({**ENVIRONMENT, "cpu": "Another CPU"})}),
        (10, {"threads": 2}),
        (10, {"device": "cuda"}),
        (0, {"device": "cuda"}),
    ],
)
def test_the_untuned_base_model_elsewhere_is_tested_over_its_examples(
    tmp_path: Path, examples: int, changed: dict[str, Any]
) -> None:
    base = {"cell": "base fp32", "method": "base", "rank": None, "seed": None, "examples": examples}
    for name, score, more in (("old", 0.9, {}), ("new", 0.8, changed)):
        write(tmp_path / name, make_result(scores={"judge": score}, **(base | more)), ["judge"])
    judged = finding(compare(tmp_path / "old", tmp_path / "new"))
    assert (judged.verdict, judged.rule) == ("cannot tell", "beyond noise over examples")
    assert judged.p == pytest.approx(1.0) or not examples  # one of ten turned: McNemar


def test_a_single_seed_without_an_error_over_examples_is_not_judged(tmp_path: Path) -> None:
    for name, score in (("old", 0.9), ("new", 0.8)):
        made = make_result(scores={"judge": score})
        scores = tuple(dataclasses.replace(one, standard_error=None) for one in made.scores)
        write(tmp_path / name, dataclasses.replace(made, scores=scores), ["judge"])
    judged = finding(compare(tmp_path / "old", tmp_path / "new"))
    assert (judged.verdict, judged.reason) == ("cannot tell", "a single trial, of which no error is known")


def test_a_single_seed_is_judged_by_the_other_sides_spread_over_seeds(tmp_path: Path) -> None:
    assert finding(compared(tmp_path / "near", [0.44, 0.48, 0.56], [0.45])).verdict == "cannot tell"
    assert finding(compared(tmp_path / "same", [0.44, 0.48, 0.56], [0.44])).verdict == "unchanged"  # the same seed 0
    assert finding(compared(tmp_path / "fell", [0.99, 0.98, 0.97], [0.02])).verdict == "regressed"


def test_cells_that_only_one_folder_has_are_listed_and_are_no_regression(tmp_path: Path) -> None:
    old, new = folder(tmp_path / "old", [0.9], cell="lora r=2 fp32"), folder(tmp_path / "new", [0.9])
    found = compare(old, new)
    assert (found.cells, found.only_old, found.only_new) == ((), ("lora r=2 fp32",), ("lora r=8 fp32",))
    assert (found.findings, found.verdict) == ((), None)


def test_settings_and_environment_that_moved_are_named_the_likeliest_to_matter_first(tmp_path: Path) -> None:
    settings = json.dumps({"method": "lora", "rank": 8, "train": {"steps": 40, "learning_rate": 3e-3}})
    packages = {**ENVIRONMENT["packages"], "torch": "2.14.0", "numpy": "3"}  # type: ignore[dict-item]
    other = {**ENVIRONMENT, "packages": packages, "git": {"commit": "f" * 40, "dirty": True}, "driver": "600"}
    more = {"settings_json": settings, "environment_json": json.dumps(other), "data_sha256": "e" * 64}
    found = compared(tmp_path, [0.9, 0.8], [0.9, 0.8], peak_train_bytes=4_000_000, **more)
    assert [(each.what, each.name) for each in found.moved] == [
        ("setting", "train.steps"),
        ("data", "data_sha256"),
        ("package", "packages.torch"),
        ("driver", "driver"),
        ("code", "git.commit"),
        ("code", "git.dirty"),
        ("other package", "packages.numpy"),
    ]
    assert found.moved[0].may_explain == ("memory",)
    assert found.moved[-1].may_explain == ()
    assert [each.cells for each in found.moved] == [()] * 7


def test_what_cannot_explain_a_change_comes_last(tmp_path: Path) -> None:
    found = compared(tmp_path, [0.9, 0.8], [0.9, 0.8], checkpoint_bytes=200_000, data_sha256="e" * 64)
    assert [each.name for each in found.moved] == ["data_sha256"]
    assert found.moved[0].may_explain == ()


def test_an_option_whose_null_stands_for_another_value_is_shown_with_that_value(tmp_path: Path) -> None:
    for name, layers in (("old", None), ("new", 4)):
        settings = json.dumps({"method": "llama_adapter", "options": {"layers": layers}})
        folder(tmp_path / name, [0.9], method="llama_adapter", settings_json=settings)
    (moved,) = compare(tmp_path / "old", tmp_path / "new").moved
    assert (moved.old, moved.new) == ("all but 2", "4")


def test_only_rows_of_the_recorded_grid_are_compared(tmp_path: Path) -> None:
    old, new = folder(tmp_path / "old", [0.9, 0.8]), folder(tmp_path / "new", [0.9, 0.8])
    later = make_result(seed=0, key="short", scores={"judge": 0.1}, finished_at="2026-11-23T00:00:00+00:00")
    write(new, later, ["judge"])
    assert finding(compare(old, new)).verdict != "unchanged"
    record_grid(new, [make_result(seed=seed).row.key for seed in (0, 1)], "peftbench run quickstart")
    found = compare(old, new)
    assert finding(found).verdict == "unchanged"
    assert (found.old.excluded, found.new.excluded) == (0, 1)


@pytest.mark.parametrize("version", ["results-v1", "results-v2"])
def test_folders_of_older_schemas_compare(tmp_path: Path, version: str) -> None:
    found = compare(GOLDEN / version, GOLDEN / version)
    assert found.verdict is True
    assert not found.of("regressed")
    assert not found.of("improved")
    across = compare(GOLDEN / "results-v1", GOLDEN / "results-v2")
    assert not across.of("regressed")


def test_a_missing_folder_and_rows_that_do_not_compare_are_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        compare(tmp_path / "a", tmp_path / "b")
    folder(tmp_path / "mixed", [0.9])
    write(tmp_path / "mixed", make_result(seed=1, protocol=PROTOCOL + 1), ["judge"])
    with pytest.raises(UserError, match="mixed: these results: rows with different protocol"):
        compare(tmp_path / "mixed", tmp_path / "mixed")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"packages": null}'])
def test_an_environment_that_cannot_be_read_is_no_difference(tmp_path: Path, text: str) -> None:
    found = nights(tmp_path, 0.5, environment_json=text)
    assert finding(found, "tokens_per_second", CELLS[-1]).verdict == "regressed"


def gpus(name: str) -> dict[str, Any]:
    return {
        "device": "cuda",
        "memory_kind": "allocator",
        "environment_json": json.dumps(ENVIRONMENT | {"gpus": [{"name": name, "driver_version": "1"}]}),
    }


def test_memory_on_another_gpu_is_not_compared(tmp_path: Path) -> None:
    old = folder(tmp_path / "old", [0.5, 0.6], **gpus("NVIDIA H100 80GB HBM3"))
    new = folder(tmp_path / "new", [0.5, 0.6], **gpus("NVIDIA H200"))
    told = finding(compare(old, new), "peak_train_bytes")
    assert (told.verdict, told.reason) == ("cannot tell", "the GPU is NVIDIA H100 80GB HBM3 and NVIDIA H200")
    assert finding(compare(old, old), "peak_train_bytes").verdict == "unchanged"


@pytest.mark.parametrize("column", ["retention_sha256", "inference_prompts_sha256"])
def test_other_texts_and_prompts_are_named_as_data_that_moved(tmp_path: Path, column: str) -> None:
    old = folder(tmp_path / "old", [0.5, 0.6], **{column: "a" * 64})
    found = compare(old, folder(tmp_path / "new", [0.5, 0.6], **{column: "b" * 64}))
    assert [(each.what, each.name) for each in found.moved] == [("data", column)]
