from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from peftbench.errors import UserError
from peftbench.records import SCHEMA_VERSION, Status
from peftbench.results.store import (
    RecordedGrid,
    Tables,
    compact,
    done,
    files,
    open_for_run,
    read,
    record_grid,
    recorded_grid,
    write,
    writing,
)
from peftbench.results.store.document import document
from peftbench.results.store.schema import columns
from tests.support.results_factory import TASKS, make_grid, make_result
from tests.support.store_checks import KINDS, assert_equal, fill, plain, stored

ROOT = Path(__file__).parents[2]
GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    result = make_result(scores={"judge": 0.9, "compute": 0.5}, cell="lora r=8 fp32", named_settings="")
    write(tmp_path, result, TASKS)
    tables = read(tmp_path)
    (row,) = tables.trials.astype(object).to_dict("records")
    for name, value in vars(result.row).items():
        assert pd.isna(row[name]) if value is None else row[name] == value, name
    assert row["score_judge"] == 0.9
    assert row["chance_judge"] == 0.25
    assert 0 < row["score_compute_standard_error"] < 1
    assert pd.isna(row["score_describe"])
    assert [vars(s) for s in result.steps] == [
        {k: None if pd.isna(v) else v for k, v in row.items()} for row in tables.steps.to_dict("records")
    ]
    assert list(tables.examples["prompt"]) == [example.prompt for example in result.examples]
    assert str(tables.trials["rank"].dtype) == "Int64"
    assert str(tables.steps["step"].dtype) == "int64"
    assert str(tables.steps["untimed"].dtype) == "bool"


def test_every_dataset_is_read_by_one_pandas_call_with_its_types(tmp_path: Path) -> None:
    make_grid(tmp_path, steps=3, examples=2)
    for kind in KINDS:
        frame = plain(tmp_path, kind)
        assert list(frame.columns[: len(columns(kind))]) == [column.name for column in columns(kind)]
        schema = pq.read_schema(next((tmp_path / kind).glob("*.parquet")))
        assert schema.metadata[b"peftbench.schema_version"] == str(SCHEMA_VERSION).encode()
        for column in columns(kind):
            field = schema.field(column.name)
            assert (field.type, field.nullable) == (column.type, column.nullable)
            assert field.metadata[b"doc"].decode() == column.doc
    assert {"method", "precision", "rank", "seed", "status", "score_judge"} <= set(plain(tmp_path).columns)


@pytest.mark.parametrize("status", list(Status))
def test_exactly_the_final_trials_are_done_before_and_after_compaction(tmp_path: Path, status: Status) -> None:
    (key,) = fill(tmp_path, 1, status=status.value)
    expected = {key} if status.final else set()
    assert done(tmp_path) == expected
    compact(tmp_path)
    assert done(tmp_path) == expected
    assert (f"{key}.parquet" in stored(tmp_path)["trials"]) is not status.final


def test_nothing_is_done_in_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    assert done(tmp_path / "none") == set()


def test_a_reader_opens_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, 3)
    opened, real = [], files.opened
    monkeypatch.setattr(files, "opened", lambda path: opened.append(path) or real(path))
    done(tmp_path)
    assert sorted(opened) == sorted((tmp_path / "trials").iterdir())
    opened.clear()
    read(tmp_path)
    assert sorted(opened) == sorted(path for kind in stored(tmp_path) for path in (tmp_path / kind).iterdir())


def test_compaction_leaves_one_file_per_dataset_and_the_same_rows(tmp_path: Path) -> None:
    keys = fill(tmp_path, 6)
    before = read(tmp_path)
    compact(tmp_path)
    assert [len(names) for names in stored(tmp_path).values()] == [1, 1, 1]
    files_of_first = stored(tmp_path)
    compact(tmp_path)
    assert stored(tmp_path) == files_of_first  # nothing to do, nothing rewritten
    assert_equal(read(tmp_path), before)
    assert done(tmp_path) == set(keys)
    assert len(plain(tmp_path)) == 6


def test_parts_are_filled_up_and_full_ones_are_not_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "PART_TRIALS", 3)
    open_for_run(tmp_path, ["judge"])
    full: set[str] = set()
    for seed in range(10):
        write(tmp_path, make_result(seed=seed))
        compact(tmp_path)
        parts = {name: pq.read_metadata(tmp_path / "trials" / name).num_rows for name in stored(tmp_path)["trials"]}
        assert sum(parts.values()) == seed + 1
        assert len(parts) == -(-(seed + 1) // 3)
        assert full <= set(parts)
        full = {name for name, rows in parts.items() if rows == 3}
    assert read(tmp_path).steps.groupby("key").size().tolist() == [3] * 10


def test_a_long_run_is_compacted_while_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "LOOSE_TRIALS", 4)
    keys = fill(tmp_path, 9)
    assert [len(names) for names in stored(tmp_path).values()] == [2, 2, 2]
    assert done(tmp_path) == set(keys)


@pytest.mark.parametrize("compacted", [False, True])
def test_a_trial_run_again_replaces_its_row_wherever_it_is(tmp_path: Path, compacted: bool) -> None:
    keys = fill(tmp_path, 3)
    if compacted:
        compact(tmp_path)
    # finished_at goes backwards, as a clock may: what was written last counts
    write(tmp_path, make_result(seed=1, steps=5, scores={"judge": 0.1}, finished_at="2020-01-01T00:00:00+00:00"))
    for tables in (read(tmp_path), Tables(*(plain(tmp_path, kind) for kind in KINDS))):
        assert sorted(tables.trials["key"]) == sorted(keys)
        assert tables.trials.set_index("key")["score_judge"].to_dict() == {keys[0]: 0.9, keys[1]: 0.1, keys[2]: 0.9}
        assert tables.steps.groupby("key").size().to_dict() == {keys[0]: 3, keys[1]: 5, keys[2]: 3}
        assert tables.examples.groupby("key").size().to_dict() == dict.fromkeys(keys, 2)


def test_a_failed_trial_is_replaced_when_it_succeeds(tmp_path: Path) -> None:
    write(tmp_path, make_result(status="killed"), TASKS)
    compact(tmp_path)
    write(tmp_path, make_result(), TASKS)
    assert list(read(tmp_path).trials["status"]) == ["ok"]
    assert len(plain(tmp_path)) == 1


def test_a_task_added_later_gives_every_file_its_columns(tmp_path: Path) -> None:
    fill(tmp_path, 2, ("judge",))
    compact(tmp_path)
    write(tmp_path, make_result(seed=2, status="error"), ["judge"])
    open_for_run(tmp_path, ["judge", "compute"])
    write(tmp_path, make_result(seed=3, scores={"judge": 0.5, "compute": 0.25}), ["judge", "compute"])
    write(tmp_path, make_result(seed=4, scores={"describe": 0.125}))  # not even announced
    frame = plain(tmp_path).set_index("seed").sort_index()
    assert frame["score_judge"].isna().tolist() == [False, False, True, False, True]
    assert frame["score_compute"].isna().tolist() == [True, True, True, False, True]
    assert frame["score_describe"].isna().tolist() == [True, True, True, True, False]
    sets = {frozenset(pq.read_schema(path).names) for path in (tmp_path / "trials").glob("*.parquet")}
    assert len(sets) == 1


def test_a_suite_with_fewer_tasks_keeps_the_stored_columns(tmp_path: Path) -> None:
    fill(tmp_path, 1, ("judge", "compute"), scores={"judge": 0.5, "compute": 0.25})
    open_for_run(tmp_path, ["judge"])
    write(tmp_path, make_result(seed=9), ["judge"])
    assert plain(tmp_path)["score_compute"].isna().sum() == 1


def test_two_tasks_that_would_share_a_column_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="share the column"):
        open_for_run(tmp_path, ["a", "a_standard_error"])


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        fill(tmp_path / name, 2, TASKS)
    for kind in KINDS:
        for path in (tmp_path / "a" / kind).iterdir():
            assert path.read_bytes() == (tmp_path / "b" / kind / path.name).read_bytes()
        assert stored(tmp_path / "a") == stored(tmp_path / "b")


def test_text_that_utf8_cannot_hold_does_not_lose_the_trial(tmp_path: Path) -> None:
    result = make_result(message="half a pair: \ud800", settings_json=json.dumps({"a": "ä\0"}))
    write(tmp_path, result)
    row = read(tmp_path).trials.iloc[0]
    assert row["message"] == "half a pair: \\ud800"
    assert json.loads(row["settings_json"]) == {"a": "ä\0"}


@pytest.mark.parametrize("key", ["", "../up", ".hidden", "_hidden", "part-x", "a/b"])
def test_a_key_that_cannot_name_a_file_is_refused(tmp_path: Path, key: str) -> None:
    result = make_result()
    with pytest.raises(ValueError, match="key"):
        write(tmp_path, replace(result, row=replace(result.row, key=key)))


def test_leftovers_of_dead_writers_are_deleted_at_opening(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    (tmp_path / "steps" / ".99999999-abc.parquet.tmp").write_bytes(b"half")
    write(tmp_path, make_result(seed=7))
    for path in (tmp_path / "trials").glob("*.parquet"):
        if pq.read_table(path)["seed"][0].as_py() == 7:
            path.unlink()  # as if the writer had died before the trial's row
    assert read(tmp_path).steps["key"].nunique() == 1
    assert len(plain(tmp_path, "steps")) == 6
    open_for_run(tmp_path, ["judge"])
    assert len(plain(tmp_path, "steps")) == 3
    assert not list(tmp_path.rglob("*.tmp"))


def test_golden_results_of_every_schema_version_still_load(tmp_path: Path) -> None:
    folders = sorted(GOLDEN.glob("results-v*"))
    assert len(folders) == SCHEMA_VERSION
    for folder in folders:
        tables = read(folder)
        ok = tables.trials[tables.trials["status"] == "ok"]
        assert sorted(tables.trials["status"]) == ["error", "ok", "ok"]
        assert ok["score_judge"].tolist() == [0.75, 0.75]
        assert (len(tables.steps), len(tables.examples)) == (6, 8)
        assert list(tables.trials.columns[: len(columns("trials"))]) == [column.name for column in columns("trials")]
        assert len(done(folder)) == 2


def test_a_row_of_schema_version_1_gets_the_settings_that_it_left_out_at_their_default(tmp_path: Path) -> None:
    task = {"name": "judge", "kind": "choice", "chat": True}
    older = {"method": "lora", "train": {"steps": 3}, "options": {"alpha": 8.0}, "tasks": [task], "base": {}}
    untuned = {"method": "base", "train": None, "options": {}}
    open_for_run(tmp_path, ["judge"])
    for seed, (settings, version) in enumerate(((older, 1), (older, 2), (untuned, 1))):
        made = make_result(seed=seed, settings_json=json.dumps(settings), schema_version=version)
        write(tmp_path, made, ["judge"])
    rows = read(tmp_path).trials.sort_values("seed")["settings_json"].map(json.loads).tolist()
    assert rows[0]["train"] == {"steps": 3, "seconds": None, "group_by_length": False, "packing": False} | {
        "profile": None
    }
    assert rows[0]["options"]["rslora"] is False
    assert rows[0]["tasks"][0]["chat"] is True
    assert rows[0]["tasks"][0]["stop"] == ["\n"]
    assert rows[1:] == [older, untuned]


def test_a_column_that_a_file_lacks_is_null_and_is_added_at_opening(tmp_path: Path) -> None:
    keys = fill(tmp_path, 2)
    path = tmp_path / "trials" / f"{keys[0]}.parquet"
    older = pq.read_table(path).drop_columns(["load_average", "peak_train_bytes"])
    pq.write_table(older, path)
    assert read(tmp_path).trials["peak_train_bytes"].isna().sum() == 1
    open_for_run(tmp_path, ["judge"])
    assert plain(tmp_path)["peak_train_bytes"].isna().sum() == 1
    assert "load_average" in plain(tmp_path).columns


def test_the_documented_columns_are_the_stored_ones() -> None:
    text = document()
    assert text in (ROOT / "results" / "README.md").read_text(), (
        "results/README.md is stale: put the output of `python -m peftbench.results.store --document` into it"
    )
    for kind in KINDS:
        assert all(f"| `{column.name}` |" in text for column in columns(kind))


def test_the_columns_are_printed_by_a_command_that_loads_no_torch() -> None:
    code = (
        "import sys, runpy; sys.argv = ['x', '--document'];"
        "runpy.run_module('peftbench.results.store', run_name='__main__');"
        "import peftbench.results.seeds, peftbench.results.watch.comparison;"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    done_ = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done_.stdout == document()


def test_the_grid_that_was_recorded_last_is_read_back(tmp_path: Path) -> None:
    assert recorded_grid(tmp_path / "nowhere") is None
    record_grid(tmp_path / "r", ["b", "a"], "peftbench run x")
    assert recorded_grid(tmp_path / "r") == RecordedGrid(("b", "a"), "peftbench run x")
    record_grid(tmp_path / "r", ["c"], "peftbench run y")
    assert recorded_grid(tmp_path / "r") == RecordedGrid(("c",), "peftbench run y")
    (tmp_path / "r" / ".1-grid.json.tmp").write_text("{")
    open_for_run(tmp_path / "r", [])
    assert [path.name for path in (tmp_path / "r").glob("*grid*")] == ["grid.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": 3, "command": "x"}'])
def test_a_damaged_grid_file_is_named_in_the_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "grid.json").write_text(text)
    with pytest.raises(UserError, match=r"grid\.json cannot be read"):
        recorded_grid(tmp_path)
