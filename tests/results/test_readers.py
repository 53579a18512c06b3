"""Stored results read with other libraries: each example of docs/data.md runs word for word."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from peftbench.results.store import compact, open_for_run, write
from peftbench.results.store.schema import columns
from tests.support.documents import ROOT, executed, libraries, python_blocks
from tests.support.results_factory import TASKS, make_grid, make_result, store
from tests.support.store_checks import KINDS

BLOCKS = python_blocks("data.md")
ONE = [code for heading, code in BLOCKS if heading == "One folder"]
SEVERAL = [code for heading, code in BLOCKS if heading == "Several folders"]
INSTALLED = "it is in the dependency group test"


def using(code: str) -> str:
    return next(name for name in libraries(code) if name in ("pandas", "duckdb", "polars"))


def run(code: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> dict[str, Any]:
    pytest.importorskip(using(code), reason=INSTALLED)
    monkeypatch.chdir(folder)
    return executed(code, "docs/data.md")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with results/quickstart, and nights of different tasks and ages."""
    place = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        make_grid(place / "results" / "quickstart", steps=3, examples=4)
        store(place / "nights" / "2026-11-01", make_result(scores={"judge": 0.5}), tasks=("judge",))
        more = make_result(seed=1, scores={"compute": 0.25, "describe": 0.5})
        store(place / "nights" / "2026-11-02", more, tasks=("compute", "describe"))
    shutil.copytree(ROOT / "tests" / "golden" / "results-v1", place / "nights" / "2026-10-31")
    return place


def test_the_document_has_an_example_for_each_library() -> None:
    assert [using(code) for code in ONE] == ["pandas", "duckdb", "polars"]
    assert [using(code) for code in SEVERAL] == ["pandas", "duckdb", "polars", "polars"]


def test_pandas_reads_one_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = run(ONE[0], monkeypatch, place)["trials"]
    assert trials["rank"].dtype == "Int64"
    assert trials["rank"].isna().any()
    assert trials["rank"].notna().any()


def test_duckdb_reads_one_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = run(ONE[1], monkeypatch, place)["losses"]
    assert len(losses) > 10
    assert losses["loss"].notna().all()
    assert set(losses["step"]) == {1, 2, 3}


def test_polars_reads_one_folder(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = run(ONE[2], monkeypatch, place)["wrong"]
    assert set(wrong["task"]) <= set(TASKS)
    assert wrong["wrong"].is_sorted(descending=True)


@pytest.mark.parametrize("code", SEVERAL[:3], ids=using)
def test_several_folders_with_different_columns_read_without_losing_one(
    code: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = run(code, monkeypatch, place)["trials"]
    frame = trials if isinstance(trials, pd.DataFrame) else pd.DataFrame(trials.to_dicts())
    assert len(frame) == 5
    assert set(frame.columns) >= {"score_judge", "score_compute", "score_describe", "named_settings"}
    assert frame["score_judge"].notna().sum() == 3  # one new row, two of the oldest schema
    assert sorted(frame["score_compute"].dropna()) == [0.25, 0.5, 0.5]
    assert sorted(frame["seed"].dropna().astype(int)) == sorted(
        seed
        for night in (place / "nights").iterdir()
        for path in (night / "trials").iterdir()
        for seed in pq.read_table(path)["seed"].to_pylist()
        if seed is not None
    )


def test_polars_reads_chosen_columns_of_several_folders_in_one_call(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = run(SEVERAL[3], monkeypatch, place)["trials"]
    assert trials.columns == ["key", "cell", "rank", "score_compute"]
    assert trials.shape == (5, 4)
    assert trials["score_compute"].drop_nulls().sort().to_list() == [0.25, 0.5, 0.5]


def changing(folder: Path) -> Path:
    """A folder in the middle of a run: parts and files of one trial, tasks that came later, in another order."""
    open_for_run(folder, ["judge"])
    write(folder, make_result(seed=0), ["judge"])
    write(folder, make_result("base fp32", "base", "fp32", None, None), ["judge"])
    compact(folder)
    open_for_run(folder, ["compute", "judge"])
    write(folder, make_result(seed=1, status="error"), ["compute", "judge"])
    open_for_run(folder, ["judge", "a"])
    write(folder, make_result(seed=2, scores={"judge": 0.5, "a": 0.25}), ["judge", "a"])
    (folder / "trials" / ".1-half.parquet.tmp").write_bytes(b"half")
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_all_files_of_a_folder_have_the_same_columns_in_the_same_order(tmp_path: Path, kind: str) -> None:
    found = [pq.read_schema(path) for path in (changing(tmp_path) / kind).glob("*.parquet")]
    assert len(found) == 3
    fixed = [column.name for column in columns(kind)]
    assert {tuple(schema.names[: len(fixed)]) for schema in found} == {tuple(fixed)}
    assert len({(tuple(schema.names), *sorted(schema.metadata.items())) for schema in found}) == 1
    added = [name for name in found[0].names[len(fixed) :] if name.startswith("chance_")]
    assert sorted(added) == (["chance_a", "chance_compute", "chance_judge"] if kind == "trials" else [])


def test_a_folder_in_the_middle_of_a_run_reads_with_each_library(tmp_path: Path) -> None:
    place = changing(tmp_path) / "trials"
    assert len(pd.read_parquet(place)) == 4
    polars = pytest.importorskip("polars", reason=INSTALLED)
    assert polars.read_parquet(f"{place}/*.parquet").shape[0] == 4
    duckdb = pytest.importorskip("duckdb", reason=INSTALLED)
    assert duckdb.sql(f"select count(*) from '{place}/*.parquet'").fetchall() == [(4,)]


@pytest.mark.parametrize("kind", KINDS)
def test_plain_pandas_makes_no_integer_a_float_and_no_boolean_an_object(tmp_path: Path, kind: str) -> None:
    folder = store(tmp_path, make_result("base fp32", "base", "fp32", None, None), make_result(seed=1))
    frame = pd.read_parquet(folder / kind)
    wanted = {pa.int64(): ("int64", "Int64"), pa.bool_(): ("bool", "boolean"), pa.float64(): ("float64", "float64")}
    for column in columns(kind):
        if column.type in wanted:
            assert str(frame[column.name].dtype) == wanted[column.type][column.nullable], column.name


def test_every_column_has_a_meaning_and_a_unit(tmp_path: Path) -> None:
    folder = store(tmp_path, make_result(), tasks=("judge",))
    for kind in KINDS:
        schema = pq.read_schema(next((folder / kind).glob("*.parquet")))
        assert len(schema) >= len(columns(kind))
        for field in schema:
            assert len(field.metadata[b"doc"]) > 5, field.name
            assert field.metadata[b"unit"], field.name
    units = {column.name: column.unit for column in columns("trials")}
    assert (units["peak_train_bytes"], units["train_seconds"]) == ("bytes", "seconds")
    assert (units["tokens_per_second"], units["first_loss"]) == ("tokens/s", "nats per token")
