"""Results exported as CSV and as a data set, read back with the real library; what holds for every export."""

from __future__ import annotations

import csv
import importlib.util
import math
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from peftbench import cli
from peftbench.errors import UserError
from peftbench.report import export
from peftbench.report.export.runs import flat, gather
from peftbench.results.store import read, record_grid
from peftbench.results.store.schema import columns
from tests.support import exports
from tests.support.exports import MESSAGE, exported, key_of, results
from tests.support.results_factory import make_result, store


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    exports.quiet(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return exports.stored(tmp_path)


def test_a_run_has_settings_curves_final_numbers_and_what_is_unknown_is_absent(folder: Path) -> None:
    runs = list(gather(folder).runs())
    assert [run.key for run in runs] == [result.row.key for result in results()]
    base, ok, oom, nan = runs
    assert (ok.suite, ok.ok, ok.message, ok.config["seed"]) == (results()[1].row.suite, True, None, 0)
    assert ok.final["score_judge"] == 0.75
    assert ok.final["trainable_parameters"] == 1234
    assert "peak_logits_bytes" not in ok.final
    assert [step for step, _ in ok.history] == [1, 2, 3]
    assert ok.history[0][1]["step/loss"] == results()[1].steps[0].loss
    assert "step/validation_loss" not in ok.history[0][1]
    assert base.config["seed"] is None
    assert base.name == "base fp32"
    assert (oom.ok, oom.message) == (False, MESSAGE)
    assert math.isnan(nan.history[-1][1]["step/loss"])
    assert "last_loss" not in nan.final


def test_settings_are_flat_with_dots() -> None:
    nested = {"train": {"steps": 3}, "tasks": [{"name": "a"}], "evaluate": ["a", "b"], "options": {}}
    assert flat(nested) == {"train.steps": 3, "tasks.0.name": "a", "evaluate": ["a", "b"], "options": {}}


def test_csv_has_every_column_and_null_is_empty(folder: Path, tmp_path: Path) -> None:
    assert "4 trials" in exported(folder, "csv", tmp_path / "out")
    with open(tmp_path / "out" / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[: len(columns("trials"))] == [column.name for column in columns("trials")]
    by_key = {row["key"]: row for row in rows}
    assert by_key[key_of(0)]["seed"] == ""
    assert by_key[key_of(1)]["seed"] == "0"
    assert by_key[key_of(1)]["trainable_parameters"] == "1234"
    assert by_key[key_of(2)]["message"] == MESSAGE
    steps = pd.read_csv(tmp_path / "out" / "steps.csv", keep_default_na=False)
    assert (steps["loss"] == "nan").sum() == 1  # measured, not unknown
    assert set(steps["validation_loss"]) == {""}
    examples = pd.read_csv(tmp_path / "out" / "examples.csv")
    assert list(examples["prompt"]) == list(gather(folder).tables.examples["prompt"])
    before = (tmp_path / "out" / "trials.csv").read_bytes()
    exported(folder, "csv", tmp_path / "out")
    assert (tmp_path / "out" / "trials.csv").read_bytes() == before


def test_the_data_set_is_read_by_load_dataset_and_its_card_is_valid(folder: Path, tmp_path: Path) -> None:
    from datasets import load_dataset
    from huggingface_hub import DatasetCard

    out = tmp_path / "out"
    assert "before you publish" in exported(folder, "hf-dataset", out)
    cache = str(tmp_path / "cache")
    trials = load_dataset(str(out), split="train", cache_dir=cache)
    assert sorted(trials["key"]) == sorted(result.row.key for result in results())
    assert {type(seed) for seed in trials["seed"]} == {int, type(None)}
    for kind in ("steps", "examples"):
        rows = load_dataset(str(out), kind, split="train", cache_dir=cache).num_rows
        assert rows == len(getattr(gather(folder).tables, kind))
    card = DatasetCard.load(out / "README.md")
    assert [each["config_name"] for each in card.data.to_dict()["configs"]] == ["trials", "steps", "examples"]
    text = (out / "README.md").read_text()
    assert yaml.safe_load(text.split("---")[1])["tags"][0] == "peftbench"
    assert "peftbench run night" in text
    assert all(f"| `{column.name}` |" in text for kind in ("trials", "steps") for column in columns(kind))
    assert pq.read_schema(out / "trials.parquet").field("peak_train_bytes").metadata[b"unit"] == b"bytes"


def test_a_data_set_without_examples_has_no_such_part(tmp_path: Path) -> None:
    folder = store(tmp_path / "r", make_result(examples=0, steps=0), tasks=("judge",))
    export.export(folder, "hf-dataset", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["README.md", "trials.parquet"]


@pytest.mark.parametrize("target", ["wandb", "trackio", "mlflow"])
def test_a_library_that_is_not_installed_is_one_sentence_with_the_command(
    target: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert cli.main(["export", str(folder), "--to", target]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"pip install 'peftbench[{target}]'" in said


def test_wrong_input_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="did you mean 'wandb'"):
        export.export(folder, "wanbd", tmp_path / "out")
    with pytest.raises(UserError, match="is a results folder"):
        export.export(folder, "csv", folder)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot export to"):
        export.export(folder, "csv", tmp_path / "file" / "out")
    assert cli.main(["export", str(tmp_path / "results"), "--to", "csv"]) == 2
    assert "night" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", str(folder), "--to", "excel"])
    assert ended.value.code == 2


def test_the_export_does_not_change_the_results(folder: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*.parquet")}
    export.export(folder, "csv", tmp_path / "out")
    assert {path: path.read_bytes() for path in folder.rglob("*.parquet")} == before
    assert len(read(folder).trials) == 5


@pytest.mark.parametrize(("target", "name"), [("hf-dataset", "README.md"), ("hf-dataset", "trials.parquet")])
def test_files_that_no_export_has_written_are_not_replaced(folder: Path, target: str, name: str) -> None:
    place = folder.parents[1] / "project"
    place.mkdir()
    (place / name).write_text("# mine\n")
    with pytest.raises(UserError, match=f"{name} exists and no earlier export wrote it"):
        export.export(folder, target, place)
    assert (place / name).read_text() == "# mine\n"
    assert len(list(place.iterdir())) == 1


def test_a_csv_of_other_columns_is_not_replaced_and_an_earlier_export_is(folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        export.export(folder, "csv", tmp_path / "out")
    (tmp_path / "out" / "trials.csv").write_text("name,date\n")
    with pytest.raises(UserError, match="exists and no earlier export wrote it"):
        export.export(folder, "csv", tmp_path / "out")


@pytest.mark.parametrize("inside", ["", "trials", "steps", "search", "trials/deep", "adapters/x"])
def test_nothing_is_exported_among_results(folder: Path, inside: str) -> None:
    (folder / "grid.json").unlink(missing_ok=True)
    with pytest.raises(UserError, match="is a results folder, or in one"):
        export.export(folder, "csv", folder / inside)


def test_a_card_has_no_path_of_the_machine(folder: Path, tmp_path: Path) -> None:
    keys = list(read(folder).trials["key"])
    record_grid(folder, keys, "peftbench run /srv/alice/grids/x.yaml --set base=/data/private/tiny --seeds 2")
    export.export(folder, "hf-dataset", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "peftbench run x.yaml --set base=tiny --seeds 2" in card
