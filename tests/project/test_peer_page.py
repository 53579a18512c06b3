"""Every statement of ``docs/peer.md`` about the peer's files is in the record, and the record is what the files say."""

from __future__ import annotations

import json

import pytest

from peftbench.results.imported import hf_method_comparison, writing
from peftbench.results.watch.comparison import compare
from peftbench.results.watch.quantities import FIXED
from tools.docs import history_document, peer_document
from tools.validation import peer_statements


@pytest.fixture(scope="module")
def record():
    return peer_document.recorded()


def test_the_record_is_what_the_files_say(peer, record):
    found = json.loads(json.dumps(peer_statements.record(peer)))
    assert found.keys() == record.keys()
    for name, value in record.items():
        assert found[name] == (pytest.approx(value) if isinstance(value, dict) and name == "time" else value), name


def test_lora_fa_saved_memory_in_june_alone(record):
    june, july = record["memory"]
    assert round(june["lora_fa"], 1) == 20.2
    assert june["saved_percent"] > 9
    assert july["saved_percent"] < 0.25, "less than reruns with the same versions differ by"


def test_compare_finds_that_and_nothing_else(peer, tmp_path):
    months = writing.write(hf_method_comparison.read([peer / "june_2026", peer / "july_2026"]), tmp_path)
    found = [(each.cell, each.quantity.name) for each in compare(*months).of("regressed")]
    assert found == [("lora rank32-lorafa", "peak_run_reserved_bytes")]


def test_lily_and_rslora_are_not_told_apart_in_either_month(record):
    assert [row["state"] for row in record["best"]] == ["June", "July"]
    for row in record["best"]:
        assert 0 < row["gap"] < row["half_width"]
        assert row["p"] > 0.05
    assert peer_statements.RSLORA in record["table"]["like_best"]
    assert record["table"]["best"] == peer_statements.LILY


def test_the_time_that_is_shown_makes_full_fine_tuning_look_cheaper(record):
    assert record["time"]["shown"] < 0.8 * record["time"]["steps"]


def test_runs_with_other_versions_differ_more_and_the_training_is_the_same(record):
    reruns = record["reruns"]
    assert reruns["other_versions"]["sd_of_a_run"] > reruns["same_versions"]["sd_of_a_run"]
    assert record["months"]["pairs"] == 10
    assert record["months"]["largest_loss_difference"] < 0.001
    assert record["table"]["median_gap"] < reruns["same_versions"]["sd_of_a_run"]
    assert record["table"]["neighbours_that_differ"] == 0


def test_the_memory_of_the_recorded_history_has_the_name_of_the_column_that_imported_rows_have():
    titles = {quantity.name: quantity.title for quantity in FIXED if quantity.kind == "memory"}
    said = history_document.recorded()["peer"]
    found = {name for name, title in titles.items() if f" {title}, " in said}
    assert found == {"peak_run_reserved_bytes"}
