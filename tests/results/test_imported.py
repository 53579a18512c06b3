"""The peer's own result files: two faults of half a year that nobody noticed are found without being told where."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from peftbench.errors import UserError
from peftbench.report.history.text import text
from peftbench.results.history import history
from peftbench.results.imported import hf_method_comparison, writing
from peftbench.results.store import read_trials
from peftbench.results.watch.comparison import compare
from peftbench.results.watch.night import environment, other_machine
from tools.docs import history_document


@pytest.fixture(scope="module")
def of_half_a_year(peer, tmp_path_factory):
    place = tmp_path_factory.mktemp("peer") / "nights"
    writing.write(hf_method_comparison.read([peer / "history.csv"]), place)
    return place


@pytest.fixture(scope="module")
def of_two_months(peer, tmp_path_factory):
    place = tmp_path_factory.mktemp("months") / "nights"
    return writing.write(hf_method_comparison.read([peer / "june_2026", peer / "july_2026"]), place)


@pytest.fixture(scope="module")
def found(of_half_a_year):
    return history([of_half_a_year])


def test_the_score_that_almost_all_experiments_lost_is_found(found):
    change = next(change for change in found.changes if change.cell is None)
    assert change is found.changes[0]
    assert change.quantity.name == "score_gsm8k"
    assert [found.nights[night].name for night in (change.previous, change.night)] == ["2026-01-13", "2026-07-20"]
    assert (len(change.cells), change.compared) == (36, 38)
    assert change.difference == pytest.approx(-0.0165, abs=0.0002)
    assert change.in_force
    assert {each.name for each in change.moved} == {"packages.torch", "packages.transformers"}


def test_the_documents_text_is_what_the_command_says(found):
    assert history_document.recorded()["peer"] == text(found)


def test_the_memory_that_lora_fa_no_longer_saves_is_found(found):
    change = next(change for change in found.changes if change.cell == "lora rank32-lorafa")
    assert found.counts(change)
    assert (change.quantity.kind, found.nights[change.night].name) == ("memory", "2026-07-20")
    assert change.before == pytest.approx(20.2e9, rel=0.01)
    assert change.after == pytest.approx(22.24e9, rel=0.001)


def test_no_alarm_is_of_an_experiment_that_did_not_change_beyond_its_reruns(found):
    """Every other change moved memory by more than 1 % (reruns differ by at most 0.25 %) or a score by 5 points."""
    other = [change for change in found.changes if change.cell not in (None, "lora rank32-lorafa")]
    assert {(change.cell, change.quantity.kind) for change in other} == {
        ("adaptionprompt lr_5e-3", "memory"),
        ("boft default", "memory"),
        ("full-finetuning lr_0.00001", "memory"),
        ("prefixtuning lr_0.001", "memory"),
        ("prefixtuning lr_0.001", "score"),
        ("oft rank32", "memory"),
    }
    assert all(abs(change.relative) > 0.01 for change in other)
    assert found.outliers == ()


def test_reruns_of_the_same_versions_raise_no_alarm(of_half_a_year):
    assert history([of_half_a_year / "2025-06-19", of_half_a_year / "2025-06-24"]).verdict is True


def test_the_files_of_two_months_raise_the_alarm_of_memory_with_the_same_settings(of_two_months):
    found = history(of_two_months)
    assert [(c.cell, c.quantity.name) for c in found.changes if c.quantity.kind == "memory"] == [
        ("lora rank32-lorafa", "peak_run_reserved_bytes")
    ]
    assert {each.what for each in found.changes[0].moved}.isdisjoint({"setting", "data"})


def test_compare_raises_the_alarm_of_memory_too(of_two_months):
    regressed = compare(*of_two_months).of("regressed")
    assert [each.cell for each in regressed if each.quantity.kind == "memory"] == ["lora rank32-lorafa"]


def test_compare_raises_the_alarm_of_the_score_too(of_half_a_year):
    found = compare(of_half_a_year / "2026-01-13", of_half_a_year / "2026-07-20")
    common = [each for each in found.of("regressed") if each.quantity.kind == "score"]
    assert [each.cell for each in common] == ["all cells"]
    assert common[0].change == pytest.approx(-0.0165, abs=0.0002)
    assert "36 of 38 cells fell" in str(common[0].reason)


HEAD = "commit,commit_date,file,created,acc,loss,steps,gpu,mem,torch,tf\n"


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("c,../../x,lora--llama-3.2-3B-a.json,2025-06-18,0.5", "commit_date is '../../x', not a date"),
        ("c,19/06/2025,lora--llama-3.2-3B-a.json,2025-06-18,0.5", "not a date like 2025-06-19"),
        ("c,2025-02-30,lora--llama-3.2-3B-a.json,2025-06-18,0.5", "not a date like 2025-06-19"),
        ("c", "commit_date is None"),
        ("c,2025-06-19", "file or created is missing"),
        ("c,2025-06-19,a.json,2025-06-18,7", "not between 0 and 1"),
        ("c,2025-06-19,a.json,2025-06-18,0.5", "no share of the 1319 questions of GSM8K's test set"),
        ("c,2025-06-19,a.json,x,0.5", "the run's date is 'x', not one like"),
        ("c,2025-06-19,a.json,2025-06-18,,,,,,,,13,14", "more values than the table has columns"),
    ],
)
def test_a_row_of_a_table_that_is_wrong_is_named(tmp_path, row, says):
    (tmp_path / "h.csv").write_text(HEAD + row + "\n")
    with pytest.raises(UserError, match=re.escape(says)):
        hf_method_comparison.read([tmp_path / "h.csv"])


def test_a_night_on_another_gpu_has_no_speed_that_compares(tmp_path):
    rows = "".join(
        f"c,2025-06-{day},lora--llama-3.2-3B-a.json,2025-06-{day},nan,,,{gpu},,,\n"
        for day, gpu in ((19, "L40S"), (20, "B200"))
    )
    (tmp_path / "h.csv").write_text(HEAD + rows)
    nights = hf_method_comparison.read([tmp_path / "h.csv"])
    assert {result.row.status for night in nights for result in night.results} == {"error"}, "nan is not measured"
    sides = [environment([result.row.environment_json for result in night.results]) for night in nights]
    assert [side["gpus.L40S.name" if i == 0 else "gpus.B200.name"] for i, side in enumerate(sides)] == ["L40S", "B200"]
    frames = [pd.DataFrame([vars(result.row) for result in night.results]) for night in nights]
    assert other_machine(*frames) == "gpus is gpus.L40S.name L40S and gpus.B200.name B200"


def test_imported_rows_say_what_they_know_and_nothing_else(of_two_months):
    row = read_trials(of_two_months[1]).set_index("cell").loc["lora rank32-lorafa"]
    assert row["peak_run_reserved_bytes"] == 22240296960
    assert row["memory_kind"] == "reserved_whole_run"
    assert row["tokens_per_second"] == pytest.approx(4198051 / 775.515, rel=1e-3)
    assert row["checkpoint_bytes"] == 36715216
    assert row[["peak_train_bytes", "retention_loss_after", "protocol", "data_sha256"]].isna().all()
