from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peftbench.errors import UserError
from peftbench.results.store import compact, damage, done, open_for_run, read, recorded_grid, write
from tests.support.results_factory import make_result
from tests.support.store_checks import KINDS, contents, fill, stored


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    damage._told.clear()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compacted", [False, True])
def test_a_truncated_file_is_left_out_by_readers_and_set_aside_by_a_run_and_named_by_both(
    tmp_path: Path, kind: str, compacted: bool, caplog: pytest.LogCaptureFixture
) -> None:
    keys = fill(tmp_path, 2)
    if compacted:
        compact(tmp_path)
    path = sorted((tmp_path / kind).glob("*.parquet"))[0]
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    broken = path.read_bytes()
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.parquet")}
    if not (compacted and kind == "trials"):
        tables = read(tmp_path)
        assert len(tables.trials) == (1 if kind == "trials" else 2)
        assert f"{path} cannot be read" in caplog.text
        assert "it is left out" in caplog.text
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.parquet")} == before, "readers change nothing"
    told = open_for_run(tmp_path, ["judge"])
    assert str(path) in told[0]
    assert "moved to" in told[0]
    aside = {p.name: p.read_bytes() for p in (tmp_path / damage.ASIDE).iterdir()}
    assert aside[f"{kind}-{path.name}"] == broken
    assert set(aside) == {f"{each}-{path.name}" for each in (KINDS if kind == "trials" else [kind])}
    left = done(tmp_path)
    if kind == "trials":
        assert left == (set() if compacted else set(keys) - {path.stem})
    else:
        assert left == set(keys), "scores are in the rows of trials"
        assert told[1].startswith(f"the {kind} of {2 if compacted else 1} stored trial")
    for seed, key in enumerate(keys):
        if key not in left:
            write(tmp_path, make_result(seed=seed))
    assert contents(read(tmp_path)).keys() == set(keys)
    assert open_for_run(tmp_path, ["judge"])[1:] == ()


def test_an_empty_file_is_left_out_and_set_aside_too(tmp_path: Path) -> None:
    keys = fill(tmp_path, 1)
    (tmp_path / "trials" / "abc.parquet").touch()
    assert done(tmp_path) == set(keys)
    (told,) = open_for_run(tmp_path, ["judge"])
    assert "abc.parquet cannot be read" in told
    assert (tmp_path / damage.ASIDE / "trials-abc.parquet").exists()
    (tmp_path / "trials" / "abc.parquet").touch()
    open_for_run(tmp_path, ["judge"])
    assert len([*(tmp_path / damage.ASIDE).iterdir()]) == 2, "nothing that was set aside is replaced"


@pytest.mark.parametrize("kind", ["steps", "examples"])
def test_steps_and_examples_that_were_deleted_are_told_by_readers_and_by_a_run(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(tmp_path, 3)
    sorted((tmp_path / kind).glob("*.parquet"))[0].unlink()
    assert len(read(tmp_path).trials) == 3
    assert f"the {kind} of 1 stored trial are gone" in caplog.text
    told = open_for_run(tmp_path, ["judge"])
    assert told == (damage._gone(kind, 1),)
    caplog.clear()
    damage._told.clear()
    compact(tmp_path)
    read(tmp_path)
    assert f"the {kind} of 1 stored trial are gone" in caplog.text, "after a compaction too"


@pytest.mark.parametrize("name", ["foreign.parquet", "notes.txt", "folder"])
def test_a_foreign_file_is_named_in_the_error(tmp_path: Path, name: str) -> None:
    fill(tmp_path, 1)
    path = tmp_path / "trials" / name
    if name == "folder":
        path.mkdir()
    elif name == "notes.txt":
        path.write_text("mine")
    else:
        pq.write_table(pa.table({"a": [1]}), path)
    for call in (lambda: read(tmp_path), lambda: open_for_run(tmp_path, ["judge"])):
        with pytest.raises(UserError, match="move it away") as caught:
            call()
        assert name in str(caught.value)
    assert path.exists()


def test_a_file_of_a_newer_schema_is_left_out_and_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = fill(tmp_path, 2)
    path = sorted((tmp_path / "trials").glob("*.parquet"))[0]
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata(table.schema.metadata | {b"peftbench.schema_version": b"99"}), path)
    assert set(read(tmp_path).trials["key"]) == set(keys) - {path.stem}
    assert "schema version 99" in caplog.text
    assert "update peftbench" in caplog.text
    assert "schema version 99" in open_for_run(tmp_path, ["judge"])[0]
    assert (tmp_path / damage.ASIDE / f"steps-{path.name}").exists(), "its steps are kept beside it"
    assert done(tmp_path) == set(keys) - {path.stem}


def test_a_missing_folder_names_its_nearest_sibling(tmp_path: Path) -> None:
    fill(tmp_path / "quickstart", 1)
    with pytest.raises(UserError, match=r"did you mean '.*quickstart'"):
        read(tmp_path / "quikstart")
    with pytest.raises(UserError, match="no such folder"):
        read(tmp_path / "nowhere" / "at all")
    with pytest.raises(UserError, match=r"did you mean '.*quickstart'"):
        read(tmp_path / "quickstart" / "trials")
    with pytest.raises(UserError, match="holds no results"):
        read(tmp_path)


def test_an_opened_but_empty_folder_holds_no_results(tmp_path: Path) -> None:
    open_for_run(tmp_path, ["judge"])
    with pytest.raises(UserError, match="holds no results"):
        read(tmp_path)


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for call in (
        lambda: open_for_run(tmp_path / "file" / "results", ["judge"]),
        lambda: write(tmp_path / "file", make_result()),
        lambda: open_for_run("/proc/peftbench", ["judge"]),
    ):
        with pytest.raises(UserError, match="cannot write results to"):
            call()


def test_a_full_disk_loses_nothing_and_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, 2)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    before = stored(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        compact(tmp_path)
    assert stored(tmp_path) == before


@pytest.mark.parametrize("version", [b"x", b"\xff", "²".encode(), b"", b"-1", b"9" * 6000])
def test_a_schema_version_that_is_no_number_is_a_foreign_file(tmp_path, version):
    (tmp_path / "trials").mkdir()
    metadata = {b"peftbench.kind": b"trials", b"peftbench.schema_version": version}
    pq.write_table(pa.table({"key": ["k"]}).replace_schema_metadata(metadata), tmp_path / "trials" / "k.parquet")
    with pytest.raises(UserError, match="is not a peftbench file of trials: move it away"):
        read(tmp_path)


def test_a_deeply_nested_record_of_the_grid_and_a_link_to_itself_are_refused(tmp_path):
    (tmp_path / "grid.json").write_text("[" * 100_000)
    with pytest.raises(UserError, match="run the suite again, or delete the file"):
        recorded_grid(tmp_path)
    (tmp_path / "trials").mkdir()
    (tmp_path / "trials" / "x.parquet").symlink_to("x.parquet")
    with pytest.raises(UserError, match="move it away"):
        read(tmp_path)


def test_a_file_that_may_not_be_read_is_not_advised_to_be_deleted(tmp_path, monkeypatch):
    fill(tmp_path)
    real = open

    def refuse(path, *given, **more):
        if str(path).endswith(("parquet", "grid.json")):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *given, **more)

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(UserError, match="cannot be read: Permission denied") as error:
        read(tmp_path)
    assert "delete" not in str(error.value)


@pytest.mark.parametrize("columns", [{"a": [1]}, {"key": ["k"]}, {"key": [1], "status": ["ok"], "finished_at": [""]}])
def test_a_parquet_file_without_the_columns_of_a_trial_is_a_foreign_file(tmp_path, columns):
    (tmp_path / "trials").mkdir()
    metadata = {b"peftbench.kind": b"trials", b"peftbench.schema_version": b"1"}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), tmp_path / "trials" / "k.parquet")
    with pytest.raises(UserError, match=r"as it does not have one text column '(key|status)': move it away"):
        read(tmp_path)


def test_a_record_of_the_grid_that_is_not_unicode_is_refused(tmp_path):
    (tmp_path / "grid.json").write_text('{"keys": ["\\ud800"], "command": ""}')
    with pytest.raises(UserError, match="run the suite again, or delete the file"):
        recorded_grid(tmp_path)


def test_memory_that_runs_out_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run would move such files aside, and run their trials again."""

    def full(*_: object) -> None:
        raise pa.ArrowMemoryError("malloc of size 8192 failed")

    keys = fill(tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(pq, "ParquetFile", full)
        with pytest.raises(MemoryError):
            open_for_run(tmp_path, ["judge"])
    assert done(tmp_path) == set(keys)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (
            "trials",
            lambda table: table.append_column("score_x", pa.array([{"a": 1}] * table.num_rows)),
            "the column 'score_x' holds struct<a: int64>, expected double",
        ),
        ("steps", lambda table: table.drop(["step"]), "the column 'step' has no value in some rows"),
        ("steps", lambda table: table.append_column("key", table["key"]), "does not have one text column 'key'"),
        ("steps", lambda table: table.append_column("loss", table["loss"]), "has the column 'loss' twice"),
    ],
)
def test_columns_of_other_types_missing_or_given_twice_are_named(
    kind: str, change: Callable[[pa.Table], pa.Table], message: str, tmp_path: Path
) -> None:
    write(tmp_path, make_result())
    path = next((tmp_path / kind).glob("*.parquet"))
    pq.write_table(change(pq.read_table(path)), path)
    with pytest.raises(UserError, match=f"{re.escape(message)}.*: move (it|the file) away"):
        read(tmp_path)
