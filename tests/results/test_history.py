"""What a history finds in synthetic nights with planted changes, and that it finds nothing where there is none."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from peftbench.errors import UserError
from peftbench.records.watch import DEFAULT, Watch
from peftbench.report.history.page import html as page_of
from peftbench.report.nights.words import together
from peftbench.results.history import History, history
from peftbench.results.history import nights as reading
from peftbench.results.history.cell_changes import noisy_changes
from peftbench.results.history.common_changes import common_changes
from peftbench.results.history.series import Point, Series
from peftbench.results.watch import night as watched
from peftbench.results.watch.comparison import compare
from peftbench.results.watch.quantities import FIXED, score
from tests.support.nights import Team, make_nights, name_of, packages
from tests.support.results_factory import ENVIRONMENT, make_result, store

GOLDEN = Path(__file__).parents[1] / "golden"
SPEED = next(quantity for quantity in FIXED if quantity.name == "tokens_per_second")


def told(found: History) -> list[tuple[str | None, str, str, str]]:
    """Return cell, quantity, first night and rule of each change that is told."""
    return [
        (c.cell, c.quantity.name, found.nights[c.night].name, c.rule) for c in found.changes if not c.part_of_common
    ]


def test_unchanged_nights_have_no_change(tmp_path):
    found = history([make_nights(tmp_path / "nights", Team(12, 5, score_noise=0.01))])
    assert found.changes == ()
    assert found.verdict is True
    assert [night.name for night in found.nights] == [name_of(night) for night in range(12)]


def test_a_slower_step_is_found_in_its_cell_and_night(tmp_path):
    team = Team(
        30,
        5,
        planted=lambda night, cell, seed: (
            {"tokens_per_second": 9_000.0 + night % 7} if night >= 18 and cell == 2 else {}
        ),
    )
    found = history([make_nights(tmp_path / "nights", team)])
    assert told(found) == [("lora r=4 fp32", "tokens_per_second", name_of(18), "change point")]
    change = found.changes[0]
    assert change.worse
    assert change.in_force
    assert change.nights == 12
    assert change.before == pytest.approx(11_000, rel=0.01)
    assert change.after == pytest.approx(9_003, rel=0.01)
    assert found.verdict is False


def test_a_slower_newest_night_is_found_from_the_noise_of_the_nights_before(tmp_path):
    team = Team(
        9, 5, planted=lambda night, cell, seed: {"tokens_per_second": 8_800.0} if night == 8 and cell == 1 else {}
    )
    found = history([make_nights(tmp_path / "nights", team)])
    assert told(found) == [("lora r=3 fp32", "tokens_per_second", name_of(8), "newest nights")]
    assert found.changes[0].nights == 1


def test_a_single_slow_night_is_an_outlier_and_no_change(tmp_path):
    team = Team(
        20, 3, planted=lambda night, cell, seed: {"tokens_per_second": 5_000.0} if night == 9 and cell == 1 else {}
    )
    found = history([make_nights(tmp_path / "nights", team)])
    assert found.changes == ()
    assert [(each.cell, each.night) for each in found.outliers] == [("lora r=3 fp32", 9)]
    assert found.verdict is True


def test_a_slower_machine_is_told_once_for_all_cells(tmp_path):
    def slower(night: int, cell: int, seed: int) -> dict:
        draw = random.Random(f"{night} {cell}")
        return {
            "tokens_per_second": (10_000 + 500 * cell) * (0.85 if night >= 12 else 1) * draw.gauss(1, 0.01),
            "environment_json": packages(torch="2.14.0" if night >= 12 else "2.13.0"),
        }

    found = history([make_nights(tmp_path / "nights", Team(24, 8, planted=slower))])
    assert told(found) == [(None, "tokens_per_second", name_of(12), found.changes[0].rule)]
    common = found.changes[0]
    assert len(common.cells) == common.compared == 8
    assert [(each.name, each.old, each.new) for each in common.moved] == [("packages.torch", "2.13.0", "2.14.0")]
    assert sum(change.part_of_common for change in found.changes) == 8


def of_clock(speed: float, clock: float) -> dict:
    return {"tokens_per_second": 10_000.0 * speed, "device_flops_per_second": 1e9 * clock}


@pytest.mark.parametrize("clocked", [False, True])
def test_a_slow_machine_is_no_change_of_the_first_nights(tmp_path, clocked):
    def slower(night: int, cell: int, seed: int) -> dict:
        machine = (0.85 if night >= 2 else 1) * (1 + 0.002 * (cell % 3))
        return of_clock(machine, machine) if clocked else {"tokens_per_second": 10_000.0 * machine}

    found = history([make_nights(tmp_path / "nights", Team(4, 12, planted=slower))])
    assert found.changes == ()
    assert found.verdict is True


def test_a_slower_step_of_all_cells_in_the_first_nights_is_what_the_machine_does_not_explain(tmp_path):
    def slower(night: int, cell: int, seed: int) -> dict:
        noise = 1 + 0.001 * ((cell * 7 + night) % 5)
        return of_clock(noise * (0.6 if night >= 2 else 1), 1.2 if night >= 2 else 1)

    found = history([make_nights(tmp_path / "nights", Team(4, 12, planted=slower))])
    assert told(found) == [(None, "tokens_per_second", name_of(2), "two nights")]
    common = found.changes[0]
    assert (len(common.cells), common.compared, common.worse, common.in_force) == (12, 12, True, True)
    assert common.relative == pytest.approx(-0.5, abs=0.01)
    assert found.verdict is False


def beside_reference(slower_from: int, torch: str = "2.13.0", torch_from: int = 0):
    """Nights of a machine that varies by 8 %; steps take a tenth longer from some night on."""

    def planted(night: int, cell: int, seed: int) -> dict:
        machine = 1 + random.Random(f"machine {night}").gauss(0, 0.08)
        own = 1 + random.Random(f"{night} {cell} {seed}").gauss(0, 0.01)
        return {
            "tokens_per_second": 10_000 * machine * own / (1.1 if night >= slower_from else 1),
            "reference_step_seconds": 0.008 / machine,
            "environment_json": packages(torch=torch if night >= torch_from else "2.13.0"),
        }

    return planted


@pytest.mark.parametrize(("nights", "rule"), [(3, "two nights"), (14, "newest nights, by the reference step")])
def test_a_tenth_in_all_cells_of_the_newest_night_is_found_beside_the_reference_step(tmp_path, nights, rule):
    team = Team(nights, 4, 3, planted=beside_reference(nights - 1))
    found = history([make_nights(tmp_path / "nights", team)])
    assert [each for each in told(found) if each[0] is None] == [(None, "tokens_per_second", name_of(nights - 1), rule)]
    common = found.changes[0]
    assert common.relative == pytest.approx(1 / 1.1 - 1, abs=0.03)
    assert (len(common.cells), common.compared, found.verdict) == (4, 4, False)
    newest = sum(change.rule.startswith("newest nights") for change in found.changes)
    assert page_of(found).count("one night so far") == newest
    assert (newest > 0) == (nights > 3)


def test_what_all_cells_of_one_base_model_did_in_two_nights_is_told_of_these_alone(tmp_path):
    def planted(night: int, cell: int, seed: int) -> dict:
        slower = cell >= 4 and night == 1
        return {
            "base": "B" if cell >= 4 else "A",
            "tokens_per_second": (1_000 if cell < 4 else 100) * (0.7 if slower else 1),
            "reference_step_seconds": 0.008,
        }

    place = make_nights(tmp_path / "nights", Team(2, 9, planted=planted))
    (common,) = (change for change in history([place]).changes if change.cell is None)
    assert (common.base, len(common.cells), common.compared, common.before) == ("B", 5, 5, pytest.approx(100))
    found = compare(*(watched.read(place / name_of(night)) for night in (0, 1)), DEFAULT)
    (told_of,) = together(found)  # what has regressed has its reason in its own row
    assert told_of.startswith("training speed on A: 4 cells together moved by +0.0 %")
    (row,) = (each for each in found.findings if each.cell == "all cells" and each.verdict == "regressed")
    assert (row.base, row.reason.split(",")[0]) == ("B", "5 cells together moved by -30.0 %")


def test_nights_of_a_machine_that_varies_are_no_change_beside_the_reference_step(tmp_path):
    found = history([make_nights(tmp_path / "nights", Team(14, 4, 3, planted=beside_reference(99)))])
    assert (found.changes, found.verdict) == ((), True)


def test_speeds_beside_the_reference_step_of_another_torch_are_not_compared(tmp_path):
    team = Team(14, 4, 3, planted=beside_reference(13, "2.14.0", 13))
    found = history([make_nights(tmp_path / "nights", team)])
    assert not [change for change in found.changes if "reference" in change.rule]


def test_a_reference_step_of_no_time_is_none(tmp_path):
    def planted(night: int, cell: int, seed: int) -> dict:
        return beside_reference(99)(night, cell, seed) | {"reference_step_seconds": 0.0 if night == 3 else 0.008}

    found = history([make_nights(tmp_path / "nights", Team(9, 4, planted=planted))])
    speeds = [series for series in found.series if series.quantity.name == "tokens_per_second"]
    assert [point.by_reference is None for point in speeds[0].points] == [night == 3 for night in range(9)]


def speeds(
    machine: list[float], code: list[float], timed: Callable[[int, int], bool], cells: int = 5, torch=lambda night: "2"
) -> list[Series]:
    """Speeds of cells on a machine, relative to a reference step in the cells and nights that timed it."""
    draw, found = random.Random(f"{machine} {code}"), []
    for cell in range(cells):
        points = []
        for night, (fast, own) in enumerate(zip(machine, code, strict=True)):
            value = 100 * own * (1 + draw.gauss(0, 0.01))
            reference = (torch(night), value * (1 + draw.gauss(0, 0.002))) if timed(night, cell) else None
            points.append(Point(night, value * fast, 1, by_reference=reference))
        found.append(Series("nano", f"cell {cell}", SPEED, (), False, tuple(points)))
    return found


def changes_of(found: list[Series]) -> list[tuple[str | None, int, str]]:
    own = noisy_changes(found, DEFAULT, 0.005)[0]
    return [(each.cell, each.night, each.rule) for each in (*common_changes(found, DEFAULT, 0.005), *own)]


ALWAYS = lambda night, cell: True  # noqa: E731
STEP = [1.0] * 12 + [0.8] * 9


@pytest.mark.parametrize("machine", [STEP, [1.0] * 20 + [0.8]])
def test_a_machine_that_became_slower_is_no_change_where_the_reference_step_says_so(machine):
    assert changes_of(speeds(machine, [1.0] * 21, ALWAYS)) == []
    unknown = changes_of(speeds(machine, [1.0] * 21, lambda night, cell: False, cells=6))
    assert {each[0] for each in unknown} == {None, *(f"cell {i}" for i in range(6))}
    night = machine.index(0.8)
    some = changes_of(speeds(machine, [1.0] * 21, lambda at, cell: at >= night, cells=6))
    assert {each[0] for each in some} == {each[0] for each in unknown}


def test_slower_steps_on_a_slower_machine_are_told_by_the_reference_step():
    found = common_changes(speeds(STEP, STEP, ALWAYS), DEFAULT, 0.005)
    assert [(each.night, each.rule) for each in found] == [(12, "change point, by the reference step")]
    assert found[0].relative == pytest.approx(-0.2, abs=0.02)
    assert len(changes_of(speeds(STEP, STEP, ALWAYS))) == 6


def test_fewer_cells_say_what_all_did_beside_the_reference_step_than_without():
    never = lambda night, cell: False  # noqa: E731
    for cells, timed, told_of in ((3, ALWAYS, 0), (4, ALWAYS, 1), (5, never, 0), (6, never, 1)):
        assert len(common_changes(speeds([1.0] * 21, STEP, timed, cells), DEFAULT, 0.005)) == told_of


def test_the_machine_does_not_say_whether_a_change_of_a_long_series_is_in_force():
    faster = speeds([1.0] * 50 + [1.4] * 5, [1.0] * 20 + [0.7] * 35, ALWAYS)
    slower = speeds([1.0] * 24 + [0.7] * 6, [1.0] * 12 + [0.7] * 12 + [1.0] * 6, ALWAYS)
    for found, night, in_force in ((faster, 20, True), (slower, 12, False)):
        kept = noisy_changes(found, DEFAULT, 0.005)[0]
        assert [(each.night, each.in_force) for each in kept] == [(night, in_force)] * 5


@pytest.mark.parametrize(
    ("machine", "code", "regressed"),
    [
        (1.4, (1, 0.7, 0.7), True),
        (0.7, (1, 0.7, 1.0), False),
        (1.4, (1, 0.7, 1.0), False),
    ],
)
def test_the_machine_of_later_nights_does_not_say_whether_a_change_of_the_first_ones_is_in_force(
    tmp_path, machine, code, regressed
):
    def planted(night: int, cell: int, seed: int) -> dict:
        fast = machine if night == 2 else 1
        own = (1 + 0.001 * ((cell * 7 + night) % 5)) * code[night]
        known = {"reference_step_seconds": 0.008 / fast, "environment_json": packages(torch="2.13.0")}
        return of_clock(own * fast, fast) | known

    found = history([make_nights(tmp_path / "nights", Team(3, 8, planted=planted))])
    changes = [each for each in found.changes if each.night == 1]
    assert len(changes) == 9
    assert {(each.worse, each.in_force) for each in changes} == {(True, regressed)}
    assert found.regressed is regressed


def test_what_all_cells_gained_back_counts_for_each_though_it_is_not_significant_by_itself(tmp_path):
    def planted(night: int, cell: int, seed: int) -> dict:
        own = (1, 0.8, 0.904)[night] if cell == 0 else (1, 0.875, 0.943)[night]
        known = {"reference_step_seconds": 0.008, "environment_json": packages(torch="2.13.0")}
        return of_clock(own * (1 + 0.001 * ((cell * 7 + night) % 5)), 1) | known

    found = history([make_nights(tmp_path / "nights", Team(3, 8, 3, planted=planted))])
    assert {each.cell is None for each in found.changes} == {True, False}
    assert {(each.night, each.in_force) for each in found.changes} == {(1, False)}
    assert not found.regressed


def test_a_common_change_counts_the_cells_that_were_compared(tmp_path):
    def planted(night: int, cell: int, seed: int) -> dict:
        waited = {"train_seconds": 10.0, "train_waiting_seconds": 9.0, "threads": 1} if night and cell > 3 else {}
        return of_clock((1 + 0.001 * cell) * (0.7 if night else 1), 1) | waited

    place = make_nights(tmp_path / "nights", Team(2, 6, planted=planted))
    (common,) = (each for each in history([place]).changes if each.cell is None)
    assert (len(common.cells), common.compared) == (4, 4)


@pytest.mark.parametrize("versions", [(None, None), ("2.13.0", "2.14.0"), ("2.13.0", None)])
def test_a_reference_step_of_an_unknown_or_of_several_versions_of_torch_is_none(tmp_path, versions):
    def planted(night: int, cell: int, seed: int) -> dict:
        known = (
            json.dumps({**ENVIRONMENT, "packages": {}}) if versions[seed] is None else packages(torch=versions[seed])
        )
        return beside_reference(99)(night, cell, seed) | {"environment_json": known}

    found = history([make_nights(tmp_path / "nights", Team(2, 1, 2, planted=planted))])
    points = [point for series in found.series if series.quantity == SPEED for point in series.points]
    assert points
    assert {point.by_reference for point in points} == {None}


def test_the_torch_of_a_failed_trial_is_not_that_of_the_reference_step(tmp_path):
    def planted(night: int, cell: int, seed: int) -> dict:
        failed = {"status": "error"} if seed == 0 else {}
        return (
            beside_reference(99)(night, cell, seed) | failed | {"environment_json": packages(torch=f"2.{min(seed, 1)}")}
        )

    found = history([make_nights(tmp_path / "nights", Team(1, 1, 3, planted=planted))])
    (speed,) = (series for series in found.series if series.quantity == SPEED)
    assert (speed.points[0].by_reference or ("",))[0] == "2.1"


def test_what_a_new_torch_does_to_speed_is_seen_as_measured():
    found = changes_of(speeds([1.0] * 21, STEP, ALWAYS, 6, lambda night: "3" if night >= 12 else "2"))
    assert found[0] == (None, 12, "change point")


def test_a_small_change_of_the_few_cells_with_a_reference_step_hides_no_large_one_of_all():
    small = [1.0] * 12 + [0.96] * 9
    found = changes_of(speeds(STEP, small, lambda night, cell: cell < 5, cells=12))
    assert found[0] == (None, 12, "change point")


def test_nights_in_which_nothing_ends_ok_judge_nothing(tmp_path):
    found = history([make_nights(tmp_path / "nights", Team(3, 2, planted=lambda *_: {"status": "oom"}))])
    assert (found.verdict, found.judged) == (None, 0)


def test_memory_is_compared_over_the_seeds_that_all_nights_have(tmp_path):
    def planted(night: int, cell: int, seed: int) -> dict:
        failed = {"status": "oom"} if (night, cell, seed) == (2, 0, 1) else {}
        grown = 50 if night >= 3 and cell == 1 else 0
        return {"peak_train_bytes": 3_000_000 + 1000 * seed + grown} | failed

    found = history([make_nights(tmp_path / "nights", Team(5, 2, seeds=3, planted=planted))])
    assert told(found) == [("lora r=3 fp32", "peak_train_bytes", name_of(3), "exact")]
    series = next(s for s in found.series if s.quantity.name == "peak_train_bytes" and s.cell == "lora r=2 fp32")
    assert {(point.value, point.seeds) for point in series.points} == {(3_001_000, 2)}


def test_a_new_driver_is_no_other_machine_and_a_new_machine_is_told(tmp_path):
    def gpu(driver: str, name: str = "H200") -> str:
        gpus = [{"name": name, "memory.total": "1 MiB", "driver_version": driver, "power.limit": driver}]
        return json.dumps(ENVIRONMENT | {"gpus": gpus})

    def moved(night: int, cell: int, seed: int) -> dict:
        text = gpu("600", "B200") if night == 3 else gpu("600" if night else "500")
        return {"environment_json": text, "data_sha256": None if not night else "d" * 64 if night < 2 else "e" * 64}

    found = history([make_nights(tmp_path / "nights", Team(4, 2, planted=moved))])
    speeds = [s for s in found.series if s.quantity == SPEED and s.cell == "lora r=2 fp32"]
    assert [len(s.points) for s in speeds] == [3, 1]
    cells = "lora r=2 fp32, lora r=3 fp32"
    why = {
        f"training speed of {cells}: a new series begins at {name_of(3)}, because gpu changed",
        f"score of judge of {cells}: a new series begins at {name_of(2)}, because data_sha256 changed",
        f"evaluation memory of {cells}: a new series begins at {name_of(2)}, because data_sha256 changed",
    }
    assert {note.partition(";")[0] for note in found.notes} == why


def test_what_the_newest_night_lacks_is_told(tmp_path):
    from peftbench.results.store import record_grid

    def busy(night: int, cell: int, seed: int) -> dict:
        return {"train_waiting_seconds": 0.5, "train_seconds": 1.0, "threads": 1} if night == 2 else {}

    place = make_nights(tmp_path / "nights", Team(3, 2, planted=busy))
    record_grid(place / name_of(2), [f"0002{cell:03}00" for cell in range(5)], "peftbench run x")
    assert history([place]).notes == (
        f"{name_of(2)}, the newest night: 3 trials of its grid without a result yet; they are not judged",
        f"{name_of(2)}, the newest night, has no speed that counts: its machine was busy in every trial",
        f"speeds on a busy machine are left out: 2 of 2 trials of {name_of(2)}",
    )


def test_a_newest_night_that_cannot_be_read_gives_no_verdict(tmp_path):
    place = make_nights(tmp_path / "nights", Team(4, 2))
    shutil.rmtree(place / name_of(3) / "trials")
    found = history([place])
    assert (found.verdict, found.newest_lost, found.judged > 0) == (None, True, True)


def test_one_more_byte_of_memory_is_found_on_a_cpu(tmp_path):
    team = Team(
        4, 2, planted=lambda night, cell, seed: {"peak_train_bytes": 3_000_001} if night >= 2 and cell == 0 else {}
    )
    found = history([make_nights(tmp_path / "nights", team)])
    assert told(found) == [("lora r=2 fp32", "peak_train_bytes", name_of(2), "exact")]


def test_a_change_that_was_mended_is_over_and_does_not_fail(tmp_path):
    team = Team(
        8, 2, planted=lambda night, cell, seed: {"peak_train_bytes": 4_000_000} if 2 <= night < 5 and cell == 0 else {}
    )
    found = history([make_nights(tmp_path / "nights", team)])
    assert [(change.night, change.in_force) for change in found.changes if change.worse] == [(2, False)]
    assert found.verdict is True


def test_memory_on_a_gpu_moves_within_its_allocators_tolerance(tmp_path):
    def wobbling(night: int, cell: int, seed: int) -> dict:
        moved = 1.10 if night >= 3 and cell == 1 else 1.0
        return {"peak_train_bytes": int(2e10 * moved * (1 + 0.001 * ((night * 7 + cell) % 3)))}

    found = history([make_nights(tmp_path / "nights", Team(5, 6, device="cuda", planted=wobbling))])
    assert told(found) == [("lora r=3 fp32", "peak_train_bytes", name_of(3), "beyond tolerance")]


def test_sizes_and_parameters_are_exact(tmp_path):
    def grown(night: int, cell: int, seed: int) -> dict:
        return {"checkpoint_bytes": 200_000, "trainable_parameters": 20_000} if night == 3 and cell == 1 else {}

    found = history([make_nights(tmp_path / "nights", Team(4, 2, planted=grown))])
    assert {(quantity, rule) for _, quantity, _, rule in told(found)} == {
        ("checkpoint_bytes", "exact"),
        ("trainable_parameters", "exact"),
    }
    assert all(change.worse for change in found.changes), "other parameters are another cell, fewer as well"


def test_a_cell_that_is_no_longer_ok_is_found(tmp_path):
    team = Team(4, 2, planted=lambda night, cell, seed: {"status": "oom"} if night >= 2 and cell == 1 else {})
    found = history([make_nights(tmp_path / "nights", team)])
    assert told(found) == [("lora r=3 fp32", "ok_share", name_of(2), "exact")]


def test_scores_that_all_fall_a_little_are_a_common_change(tmp_path):
    def fallen(night: int, cell: int, seed: int) -> dict:
        draw = random.Random(f"{night} {cell}")
        return {"score": 0.6 + 0.01 * cell + draw.gauss(0, 0.004) - (0.02 if night >= 4 else 0)}

    found = history([make_nights(tmp_path / "nights", Team(6, 20, device="cuda", planted=fallen))])
    assert told(found) == [(None, "score_judge", name_of(4), "over cells")]
    change = found.changes[0]
    assert len(change.cells) >= 17
    assert change.difference == pytest.approx(-0.02, abs=0.005)
    assert change.p < 0.001


def test_scores_drawn_anew_by_another_version_are_no_change(tmp_path):
    def redrawn(night: int, cell: int, seed: int) -> dict:
        draw = random.Random(f"{cell} {seed} {night >= 9}")
        return {"score": draw.gauss(0.7, 0.01), "environment_json": packages(torch="2.14" if night >= 9 else "2.13")}

    found = history([make_nights(tmp_path / "nights", Team(12, 6, seeds=3, planted=redrawn))])
    assert found.changes == ()


def test_a_score_that_fell_far_beyond_its_seeds_is_found_where_nights_repeat_exactly(tmp_path):
    def fallen(night: int, cell: int, seed: int) -> dict:
        return {"score": 0.8 + 0.002 * seed - (0.3 + 0.001 * seed**2 if night >= 9 and cell == 1 else 0)}

    found = history([make_nights(tmp_path / "nights", Team(12, 4, seeds=3, planted=fallen))])
    assert told(found) == [("lora r=3 fp32", "score_judge", name_of(9), "two nights")]


def test_only_changes_within_the_last_nights_fail_if_asked(tmp_path):
    team = Team(8, 2, planted=lambda night, cell, seed: {"checkpoint_bytes": 500_000} if night >= 3 else {})
    place = make_nights(tmp_path / "nights", team)
    assert history([place]).verdict is False
    assert history([place], last=6).verdict is False
    assert history([place], last=5).verdict is False
    assert history([place], last=4).verdict is True


def test_another_machine_is_another_series_of_speed(tmp_path):
    def moved(night: int, cell: int, seed: int) -> dict:
        if night % 2:
            return {"tokens_per_second": 30_000.0, "environment_json": json.dumps(ENVIRONMENT | {"cpu": "another"})}
        return {}

    found = history([make_nights(tmp_path / "nights", Team(8, 2, planted=moved))])
    assert found.changes == ()
    speeds = [series for series in found.series if series.quantity == SPEED]
    assert len(speeds) == 4
    assert all(len(series.points) == 4 for series in speeds)


def test_trials_on_a_busy_machine_have_no_speed(tmp_path):
    def busy(night: int, cell: int, seed: int) -> dict:
        slow = {"tokens_per_second": 100.0, "train_waiting_seconds": 0.5, "train_seconds": 1.0, "threads": 1}
        return slow if night == 5 else {}

    found = history([make_nights(tmp_path / "nights", Team(8, 2, planted=busy))])
    assert found.changes == ()
    assert all(5 not in {point.night for point in s.points} for s in found.series if s.quantity == SPEED)


def test_nights_that_were_all_busy_are_told_where_speed_is_watched(tmp_path):
    busy = {"train_waiting_seconds": 0.5, "train_seconds": 1.0, "threads": 1}
    place = make_nights(tmp_path / "nights", Team(2, 2, planted=lambda *_: busy))
    newest, others = history([place]).notes
    assert newest.startswith(f"{name_of(1)}, the newest night, has no speed that counts")
    assert others.endswith(f"2 of 2 trials of {name_of(1)}, 2 of 2 trials of {name_of(0)}")
    assert history([place], changed=lambda watch: Watch(judge=("memory",))).notes == ()


def test_kinds_that_are_not_watched_are_not_judged(tmp_path):
    team = Team(4, 2, planted=lambda night, cell, seed: {"checkpoint_bytes": 500_000} if night >= 2 else {})
    place = make_nights(tmp_path / "nights", team)
    assert history([place], changed=lambda watch: Watch(judge=("memory",))).verdict is True
    assert history([place], changed=lambda watch: Watch(size_percent=1000.0)).verdict is True


def test_one_night_judges_nothing(tmp_path):
    found = history([make_nights(tmp_path / "nights", Team(1, 2))])
    assert found.verdict is None
    assert found.judged == 0


def test_nights_without_a_common_cell_judge_nothing(tmp_path):
    one = store(tmp_path / "nights" / "2026-01-01", make_result("lora r=2 fp32", rank=2))
    store(one.parent / "2026-01-02", make_result("lora r=4 fp32", rank=4))
    found = history([one.parent])
    assert found.verdict is None
    assert len(found.series) > 4


def test_a_broken_night_is_a_note_and_the_others_are_judged(tmp_path):
    place = make_nights(tmp_path / "nights", Team(6, 2))
    for file in (place / name_of(2) / "trials").iterdir():
        file.write_bytes(b"no parquet")
    (place / name_of(3) / "grid.json").write_text("{")
    shutil.rmtree(place / name_of(4) / "trials")
    found = history([place])
    assert [night.name for night in found.nights] == [name_of(night) for night in (0, 1, 5)]
    assert [note.startswith("left out: ") for note in found.notes] == [True] * 3
    assert found.verdict is True


def test_nights_of_the_first_schema_are_read(tmp_path):
    place = tmp_path / "nights"
    shutil.copytree(GOLDEN / "results-v1", place / "2025-12-01")
    shutil.copytree(GOLDEN / "results-v1", place / "2025-12-02")
    found = history([place])
    assert found.verdict is True
    assert found.notes == ()
    assert len(found.nights) == 2


def test_nights_come_in_the_order_of_their_dates_however_they_are_given(tmp_path):
    place = make_nights(tmp_path / "nights", Team(3, 1))
    store(tmp_path / "other", make_result(finished_at="2026-01-02T12:00:00+00:00"))
    found = history([tmp_path / "other", place / name_of(2), place])
    assert [night.name for night in found.nights] == [name_of(0), name_of(1), "other", name_of(2)]


def test_nights_of_the_same_name_are_told_apart(tmp_path):
    for parent in ("a", "b"):
        make_nights(tmp_path / parent, Team(1, 1))
    names = [night.name for night in history([tmp_path / "a", tmp_path / "b"]).nights]
    assert names == [str(tmp_path / parent / name_of(0)) for parent in ("a", "b")]


def test_only_rows_of_the_recorded_grid_count(tmp_path):
    from peftbench.results.store import record_grid

    place = make_nights(tmp_path / "nights", Team(2, 3))
    for night in range(2):
        record_grid(place / name_of(night), [f"{night:04}{cell:03}00" for cell in range(2)], "peftbench run x")
    assert all(len(night.cells) == 2 for night in history([place]).nights)


def test_a_folder_without_nights_is_bad_input(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no results"):
        reading.read([tmp_path / "empty"], ())
    with pytest.raises(UserError, match="no such folder"):
        reading.read([tmp_path / "missing"], ())


def page(draw: random.Random, nights: int, heavy: bool, cells: int = 30, kind=SPEED) -> list[Series]:
    """Return the series of a grid on which nothing changes."""
    noise = (lambda: draw.gauss(0, 1) / (draw.gammavariate(1.5, 2 / 3) ** 0.5)) if heavy else (lambda: draw.gauss(0, 1))
    return [
        Series(
            "nano", f"cell {c}", kind, (), False, tuple(Point(n, 100 * (1 + 0.02 * noise()), 1) for n in range(nights))
        )
        for c in range(cells)
    ]


@pytest.mark.parametrize("nights", [9, 20, 60])
@pytest.mark.parametrize("heavy", [False, True])
def test_few_pages_without_a_change_have_a_false_alarm(nights, heavy):
    draw = random.Random(f"{nights} {heavy}")
    pages = [page(draw, nights, heavy) for _ in range(25)]
    alarms = sum(bool(noisy_changes(found, DEFAULT, 0.005)[0]) for found in pages)
    common = sum(bool(common_changes(found, DEFAULT, 0.005)) for found in pages)
    assert alarms <= (4 if heavy else 1)
    assert common <= 1


def test_few_pairs_of_nights_without_a_change_have_a_common_shift():
    draw = random.Random(4)
    pages = [page(draw, 3, False, kind=score("judge")) for _ in range(200)]
    assert sum(bool(common_changes(found, DEFAULT, 0.005)) for found in pages) <= 5
