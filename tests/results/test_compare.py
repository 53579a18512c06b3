from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from peftbench.errors import UserError
from peftbench.report.comparison import render
from peftbench.results.compare import Comparison, compare
from peftbench.results.store import record_grid, write
from peftbench.version import PROTOCOL
from tests.support.results_factory import ENVIRONMENT, make_grid, make_result


def folder(place: Path, scores: list[float], **fields: Any) -> Path:
    for seed, score in enumerate(scores):
        write(place, make_result(seed=seed, scores={"judge": score}, **fields), ["judge"])
    return place


def compared(tmp_path: Path, old: list[float], new: list[float], **fields: Any) -> Comparison:
    return compare(folder(tmp_path / "old", old), folder(tmp_path / "new", new, **fields))


def verdict(comparison: Comparison, column: str = "score_judge") -> str | None:
    (cell,) = comparison.cells
    return next(change.verdict for change in cell.changes if change.column == column)


def test_a_folder_against_itself_has_no_change(tmp_path: Path) -> None:
    grid = make_grid(tmp_path / "grid", steps=2, examples=1)
    found = compare(grid, grid)
    assert len(found.cells) == 15
    assert {change.verdict for cell in found.cells for change in cell.changes} == {"same"}
    assert found.verdict is True
    text = render(found)
    assert "15 of 15 cells in both are the same" in text
    assert "changed" not in text
    assert "no regression: no score fell beyond noise" in text
    assert text.endswith("not judged: peak_train_bytes did not move, tokens_per_second did not move\n")


@pytest.mark.parametrize(
    ("old", "new", "expected", "regressed"),
    [
        ([0.90, 0.91, 0.92], [0.80, 0.81, 0.82], "beyond noise", True),
        ([0.80, 0.81, 0.82], [0.90, 0.91, 0.92], "beyond noise", False),
        ([0.90, 0.80, 0.70], [0.85, 0.75, 0.72], "within noise", False),
        ([0.90], [0.10], "beyond noise", True),  # by the errors over two examples, 0.21 each
        ([0.90], [0.40], "within noise", False),
        ([0.90, 0.91], [0.10], "beyond noise", True),
        ([0.90, 0.80, 0.70], [0.88, 0.78, 0.69], "beyond noise", True),  # far less than seeds differ, in each seed
        ([0.90, 0.80], [0.80, 0.90], "within noise", False),
        ([0.90, 0.90], [0.89, 0.89], "beyond noise", True),
        ([0.90, 0.91], [0.90, 0.91], "same", False),
    ],
)
def test_a_score_is_judged_by_the_noise_between_seeds(
    tmp_path: Path, old: list[float], new: list[float], expected: str, regressed: bool
) -> None:
    found = compared(tmp_path, old, new)
    assert verdict(found) == expected
    assert found.regressed is regressed
    text = render(found)
    assert expected in text
    assert ("REGRESSED" in text) is regressed
    (change,) = [change for change in found.cells[0].changes if change.column == "score_judge"]
    assert change.old is not None
    assert change.new is not None
    assert (change.old.n, change.new.n) == (len(old), len(new))
    assert change.difference == pytest.approx(sum(new) / len(new) - sum(old) / len(old))


def test_a_cell_that_was_ok_and_is_not_is_a_regression(tmp_path: Path) -> None:
    old, new = folder(tmp_path / "old", [0.9, 0.9]), folder(tmp_path / "new", [0.9])
    write(new, make_result(seed=1, status="oom", message="no room for <b>"), ["judge"])
    assert compare(old, new).regressed
    assert not compare(new, old).regressed
    text = render(compare(old, new))
    assert "2 ok" in text
    assert "1 ok, 1 oom" in text
    assert "no room for <b>" in text


def test_cells_that_only_one_folder_has_are_listed_and_are_no_regression(tmp_path: Path) -> None:
    old, new = folder(tmp_path / "old", [0.9], cell="lora r=2 fp32"), folder(tmp_path / "new", [0.9])
    found = compare(old, new)
    assert (found.cells, found.only_old, found.only_new) == ((), ("lora r=2 fp32",), ("lora r=8 fp32",))
    assert not found.regressed
    assert "only in old: lora r=2 fp32" in render(found)
    assert "no cell is in both" in render(found)
    assert found.verdict is None
    assert "no verdict" in render(found)
    assert "no regression" not in render(found)


def test_changed_settings_and_environment_are_listed_once(tmp_path: Path) -> None:
    settings = json.dumps({"method": "lora", "rank": 8, "train": {"steps": 40, "learning_rate": 3e-3}})
    environment = json.dumps(ENVIRONMENT | {"packages": ENVIRONMENT["packages"] | {"torch": "2.14.0"}})  # type: ignore[operator]
    found = compared(tmp_path, [0.9, 0.8], [0.9, 0.8], settings_json=settings, environment_json=environment)
    assert [(d.name, d.old, d.new, d.cells) for d in found.settings] == [("train.steps", "30", "40", ())]
    assert [(d.name, d.old, d.new) for d in found.environment] == [("packages.torch", "2.13.0", "2.14.0")]
    text = render(found)
    assert text.count("train.steps: 30 -> 40") == 1
    assert text.count("packages.torch: 2.13.0 -> 2.14.0") == 1


def test_a_setting_that_changed_in_some_cells_names_them(tmp_path: Path) -> None:
    old, new = folder(tmp_path / "old", [0.9]), folder(tmp_path / "new", [0.9])
    for place, text in ((old, '{"dropout": 0.0}'), (new, "{}")):
        write(place, make_result("lora r=2 fp32", rank=2, settings_json=text), ["judge"])
    (difference,) = compare(old, new).settings
    assert (difference.name, difference.old, difference.new) == ("dropout", "0.0", "(absent)")
    assert difference.cells == ("lora r=2 fp32",)


@pytest.mark.parametrize(
    ("field", "value", "refused"),
    [
        ("memory_kind", "allocator", {"peak_train_bytes"}),
        ("device", "cuda", {"peak_train_bytes", "tokens_per_second"}),
        ("threads", 2, {"tokens_per_second"}),
        ("protocol", PROTOCOL + 1, {"score", "peak_train_bytes", "tokens_per_second"}),
    ],
)
def test_columns_that_are_not_comparable_are_refused_and_the_difference_is_named(
    tmp_path: Path, field: str, value: object, refused: set[str]
) -> None:
    found = compared(tmp_path, [0.9, 0.9], [0.1, 0.1], **{field: value})
    assert set(found.refused) == refused
    assert {difference.name for difference in found.refused.values()} == {field}
    columns = {change.column for change in found.cells[0].changes}
    assert {"checkpoint_bytes", "trainable_parameters"} <= columns
    assert not columns & refused
    assert found.regressed is ("score" not in refused)
    assert f"{field} is " in render(found)


def test_sizes_differ_without_noise(tmp_path: Path) -> None:
    found = compared(tmp_path, [0.9], [0.9], trainable_parameters=40_000, checkpoint_bytes=2_000_000)
    assert verdict(found, "trainable_parameters") == "differs"
    text = render(found)
    assert "+9,280" in text
    assert "1.91 MiB" in text


def test_a_value_that_one_side_lacks_is_not_a_number(tmp_path: Path) -> None:
    found = compared(tmp_path, [0.9], [0.9], peak_train_bytes=None)
    assert verdict(found, "peak_train_bytes") is None
    assert "–" in render(found)


def test_the_columns_line_up(tmp_path: Path) -> None:
    lines = render(compared(tmp_path, [0.9, 0.8], [0.7, 0.6], peak_train_bytes=2**31)).splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("cell"))
    ends = [line.index("(n=2)", line.index("(n=2)") + 1) + 5 for line in lines[head + 1 : head + 3]]
    assert ends == [lines[head].index("new") + 3] * 2


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        compare(tmp_path / "a", tmp_path / "b")


def test_cells_whose_scores_were_refused_are_not_counted_as_the_same(tmp_path: Path) -> None:
    found = compared(tmp_path, [0.9, 0.8], [0.9, 0.8], protocol=PROTOCOL + 1)
    assert not found.regressed
    assert found.verdict is None
    text = render(found)
    assert "0 of 1 cells in both are the same" in text
    assert text.endswith("no verdict: no score could be compared\n")


@pytest.mark.parametrize("key", ["data_sha256", "base_sha256"])
def test_scores_on_other_examples_or_another_base_model_are_refused_per_cell(tmp_path: Path, key: str) -> None:
    old, new = folder(tmp_path / "old", [0.9, 0.8]), folder(tmp_path / "new", [0.1, 0.1], **{key: "e" * 64})
    other = {"cell": "lora r=2 fp32", "rank": 2}
    folder(old, [0.7, 0.6], **other)
    folder(new, [0.7, 0.6], **other)
    found = compare(old, new)
    by_name = {cell.cell: cell for cell in found.cells}
    refused = by_name["lora r=8 fp32"].refused
    assert refused is not None
    assert refused.name == key
    assert "score_judge" not in {change.column for change in by_name["lora r=8 fp32"].changes}
    assert by_name["lora r=2 fp32"].same
    assert found.verdict is True
    text = render(found)
    assert f"score of lora r=8 fp32: {key} is" in text
    assert "1 of 2 cells in both are the same" in text


@pytest.mark.parametrize(("new", "fell"), [(0.899, True), (0.901, False)])
def test_the_untuned_base_model_has_no_noise(tmp_path: Path, new: float, fell: bool) -> None:
    base = {"cell": "base fp32", "method": "base", "rank": None, "seed": None}
    for name, score in (("old", 0.9), ("new", new)):
        write(tmp_path / name, make_result(scores={"judge": score}, **base), ["judge"])  # type: ignore[arg-type]
    found = compare(tmp_path / "old", tmp_path / "new")
    assert verdict(found) == "differs"
    assert found.regressed is fell
    assert found.verdict is not fell
    assert compare(tmp_path / "old", tmp_path / "old").verdict is True


def test_fewer_ok_seeds_are_a_regression_even_if_some_had_failed_before(tmp_path: Path) -> None:
    for name, failed in (("old", 1), ("new", 2)):
        folder(tmp_path / name, [0.9] * (3 - failed))
        for seed in range(3 - failed, 3):
            write(tmp_path / name, make_result(seed=seed, status="oom"), ["judge"])
    assert compare(tmp_path / "old", tmp_path / "new").verdict is False
    assert compare(tmp_path / "new", tmp_path / "old").verdict is True


def test_a_single_seed_without_an_error_over_examples_is_not_judged(tmp_path: Path) -> None:
    for name, score in (("old", 0.9), ("new", 0.8)):
        made = make_result(scores={"judge": score})
        scores = tuple(dataclasses.replace(one, standard_error=None) for one in made.scores)
        write(tmp_path / name, dataclasses.replace(made, scores=scores), ["judge"])
    found = compare(tmp_path / "old", tmp_path / "new")
    assert verdict(found) == "no spread known"
    assert found.verdict is None


def test_a_single_seed_is_judged_by_the_other_sides_spread_over_seeds(tmp_path: Path) -> None:
    # the same seed 0 on both sides: 0.44, among seeds that spread from 0.44 to 0.56
    assert verdict(compared(tmp_path / "same", [0.44, 0.48, 0.56], [0.44])) == "within noise"
    assert verdict(compared(tmp_path / "fell", [0.99, 0.98, 0.97], [0.02])) == "beyond noise"


def test_only_rows_of_the_recorded_grid_are_compared(tmp_path: Path) -> None:
    old, new = folder(tmp_path / "old", [0.9, 0.8]), folder(tmp_path / "new", [0.9, 0.8])
    later = make_result(seed=0, key="short", scores={"judge": 0.1}, finished_at="2026-11-23T00:00:00+00:00")
    write(new, later, ["judge"])
    assert not compare(old, new).cells[0].same
    record_grid(new, [make_result(seed=seed).row.key for seed in (0, 1)], "peftbench run quickstart")
    found = compare(old, new)
    assert found.cells[0].same
    assert "new: 1 stored row not of the grid" in render(found)


def test_an_option_whose_null_stands_for_another_value_is_shown_with_that_value(tmp_path: Path) -> None:
    for name, layers in (("old", None), ("new", 4)):
        settings = json.dumps({"method": "llama_adapter", "options": {"layers": layers}})
        folder(tmp_path / name, [0.9], method="llama_adapter", settings_json=settings)
    (difference,) = compare(tmp_path / "old", tmp_path / "new").settings
    assert (difference.old, difference.new) == ("all but 2", "4")


def test_memory_and_speed_are_shown_though_only_scores_are_judged(tmp_path: Path) -> None:
    found = compared(tmp_path, [0.9, 0.8], [0.9, 0.8], tokens_per_second=10_000.0, peak_train_bytes=4_180_000)
    assert found.verdict is True
    text = render(found)
    assert (
        "memory and time are not judged: peak_train_bytes moved by +10.0 %, tokens_per_second moved by -50.0 %" in text
    )
    found = compared(tmp_path / "again", [0.9, 0.8], [0.9, 0.8], threads=2)
    assert "tokens_per_second was not compared" in render(found)


def test_results_of_different_suites_without_a_common_cell_are_named_in_two_lines(tmp_path: Path) -> None:
    old, new = folder(tmp_path / "old", [0.9]), make_grid(tmp_path / "new", steps=1, examples=1)
    for seed in range(3):
        made = make_result("lora r=8 fp32", seed=seed)
        row = dataclasses.replace(made.row, base="llama", suite="real_small", key=f"{seed}")
        write(tmp_path / "other", dataclasses.replace(made, row=row, steps=(), examples=()), ["judge"])
    for place in (old, new):
        text = render(compare(tmp_path / "other", place))
        assert text.splitlines() == [
            "no verdict: no cell is in both folders, so nothing can be compared",
            f"{tmp_path / 'other'} is suite real_small on llama; {place} is suite quickstart on nano",
        ]


@pytest.mark.parametrize("other", ["validation", "test"])
def test_scores_of_another_split_are_not_compared(tmp_path: Path, other: str) -> None:
    for name, split in (("old", "test"), ("new", other)):
        folder(tmp_path / name, [0.9, 0.8], settings_json=json.dumps({"evaluation": {"split": split}}))
    found = compare(tmp_path / "old", tmp_path / "new")
    assert found.verdict is (True if other == "test" else None)
    assert ("score of lora r=8 fp32: evaluation.split is test and validation" in render(found)) is (other != "test")


def test_scores_with_other_metrics_are_not_compared_and_the_metrics_are_named(tmp_path: Path) -> None:
    for name, metric in (("old", "accuracy"), ("new", "matthews")):
        for seed in (0, 1):
            made = make_result(seed=seed, scores={"judge": 0.9 - seed / 10, "free": 0.5})
            scores = json.loads(made.row.scores_json or "")
            scores["judge"]["metric"] = metric
            row = dataclasses.replace(made.row, scores_json=json.dumps(scores))
            write(tmp_path / name, dataclasses.replace(made, row=row), ["judge", "free"])
    found = compare(tmp_path / "old", tmp_path / "new")
    assert "score_judge" not in {change.column for change in found.cells[0].changes}
    assert verdict(found, "score_free") == "same"
    text = render(found)
    assert "0 of 1 cells in both are the same" in text
    assert (
        "not compared, because the values that must be equal differ:\n  score_judge of lora r=8 fp32: the metric is "
        in text
    )
    assert "accuracy and matthews" in text
    assert compare(tmp_path / "old", tmp_path / "old").cells[0].same


def test_times_of_a_busy_machine_are_reported_with_their_side(tmp_path: Path) -> None:
    measured = {"train_seconds": 10.0, "threads": 1}
    old = folder(tmp_path / "old", [0.9, 0.8], train_waiting_seconds=0.1, **measured)
    new = folder(tmp_path / "new", [0.9, 0.8], train_waiting_seconds=4.0, **measured)
    text = render(compare(old, new))
    assert (
        "new: Times of 2 of 2 trials are unreliable: the machine was busy (threads waited for a CPU in up to 40 %"
        in text
    )
    assert "old: Times" not in text
    assert "the machine was busy" not in render(compare(old, old))
