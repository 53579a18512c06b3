"""Results exported to other tools, read back with the real library of each."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import os
import sqlite3
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from peftbench import cli
from peftbench.errors import UserError
from peftbench.records import Result
from peftbench.report import export
from peftbench.report.export.runs import flat, gather
from peftbench.results.store import read, record_grid, write
from peftbench.results.store.schema import columns
from tests.support.documents import ROOT
from tests.support.results_factory import make_result, store

WHY = "it is in the dependency group export"
SECRETS = {
    "WANDB_API_KEY": "a" * 20 + "secret-one-0123456789",
    "HF_TOKEN": "hf_secret_two",
}
MESSAGE = "CUDA out of memory: tried to allocate 2 GiB"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def results() -> list[Result]:
    """The untuned base model, a trial that ended ok, one without memory, one whose loss became NaN."""
    base = make_result("base fp32", "base", "fp32", None, None)
    ok = make_result(seed=0, scores={"judge": 0.75}, trainable_parameters=1234, message=None)
    oom = make_result("full fp32", "full", "fp32", None, 1, "oom", phase="train", message=MESSAGE)
    nan = make_result(seed=2, status="diverged", message="the loss is NaN", last_loss=None)
    steps = make_result(seed=2).steps
    last = replace(steps[-1], loss=math.nan, gradient_norm=math.inf)
    return [base, ok, oom, replace(nan, steps=(*steps[:-1], last))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = store(tmp_path / "results" / "night", *results(), tasks=("judge",))
    write(place, make_result(seed=9), ("judge",))  # of an earlier grid: no run of its own
    record_grid(place, [result.row.key for result in results()], "peftbench run night")
    return place


def key_of(number: int) -> str:
    return results()[number].row.key


def exported(folder: Path, target: str, output: Path) -> str:
    """Run the command in a process of its own, as trackers keep state in theirs; return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "peftbench", "export", str(folder), "--to", target, "-o", str(output)],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "http_proxy": "http://127.0.0.1:9",
            "https_proxy": "http://127.0.0.1:9",
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    for path in output.rglob("*"):
        stored = path.read_bytes() if path.is_file() else b""
        assert not any(value.encode() in stored for value in SECRETS.values()), path
    return done.stdout


def rewritten(folder: Path) -> None:
    """The trial without memory runs again and ends ok."""
    again = make_result("full fp32", "full", "fp32", None, 1, finished_at="2027-01-01T00:00:00+00:00")
    assert again.row.key == key_of(2)
    write(folder, again, ("judge",))


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


def wandb_records(path: Path) -> dict[str, list]:
    """The records of an offline run by type. The file is a log of LevelDB's format behind seven bytes, of protobufs."""
    from wandb.proto import wandb_internal_pb2

    data, place, parts = path.read_bytes(), 7, b""
    found: dict[str, list] = {}
    assert data[:4] == b":W&B"
    while place < len(data):
        if 32768 - place % 32768 < 7:  # a record's head does not cross a block's end
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<4xHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            name = record.WhichOneof("record_type")
            found.setdefault(name, []).append(getattr(record, name))
    return found


def test_wandb_gets_an_offline_run_per_trial(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("wandb", reason=WHY)
    out = tmp_path / "out"
    assert "wandb sync" in exported(folder, "wandb", out)
    files = {path.stem.removeprefix("run-"): path for path in out.glob("wandb/offline-run-*/*.wandb")}
    assert set(files) == {result.row.key for result in results()}
    ok, oom = (wandb_records(files[key_of(place)]) for place in (1, 2))
    run = ok["run"][0]
    assert (run.run_id, run.project, run.run_group) == (key_of(1), "peftbench", results()[1].row.suite)
    assert run.host == ""
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert config["method"] == "lora"
    assert config["rank"] == 8
    history = [{(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in h.item} for h in ok["history"]]
    assert [row["step/loss"] for row in history] == [step.loss for step in results()[1].steps]
    summary = {(i.key or "/".join(i.nested_key)): i.value_json for s in ok["summary"] for i in s.update}
    assert summary["score_judge"] == "0.75"
    assert ok["exit"][0].exit_code == 0
    assert oom["exit"][0].exit_code == 1
    assert oom["run"][0].notes == MESSAGE
    assert "0 trials written" in exported(folder, "wandb", out)
    rewritten(folder)
    assert "1 trial written" in exported(folder, "wandb", out)
    (again,) = out.glob(f"wandb/offline-run-*/run-{key_of(2)}.wandb")
    assert wandb_records(again)["exit"][0].exit_code == 0


def test_trackio_gets_a_run_per_trial(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("trackio", reason=WHY)
    out = tmp_path / "out"
    assert "trackio show" in exported(folder, "trackio", out)
    code = (
        "import json, trackio\nfrom trackio.api import Api\n"
        "runs = Api().runs('peftbench')\n"
        "from trackio.sqlite_storage import SQLiteStorage as s\n"
        "print(json.dumps([[r.id, r.name, r.config, s.get_logs('peftbench', r.name, run_id=r.id),"
        " s.get_alerts('peftbench', run_name=r.name, run_id=r.id)] for r in runs], default=str))"
    )

    def stored() -> dict[str, tuple]:
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "TRACKIO_DIR": str(out)}, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        assert len({entry[0] for entry in found}) == len(found)
        return {entry[0]: entry[1:] for entry in found}

    runs = stored()
    assert set(runs) == {result.row.key for result in results()}
    name, config, logs, alerts = runs[key_of(1)]
    assert name.endswith("seed 0")
    assert (config["method"], config["status"], config["_Group"]) == ("lora", "ok", results()[1].row.suite)
    assert [row["step/loss"] for row in logs if "step/loss" in row] == [step.loss for step in results()[1].steps]
    assert [row["score_judge"] for row in logs if "score_judge" in row] == [0.75]
    assert alerts == []
    _, config, _, alerts = runs[key_of(2)]
    assert (config["failed"], config["message"]) == (True, MESSAGE)
    assert [(alert["title"], alert["text"]) for alert in alerts] == [("failed: oom", MESSAGE)]
    assert "0 trials written" in exported(folder, "trackio", out)
    rewritten(folder)
    assert "1 trial written" in exported(folder, "trackio", out)
    assert stored()[key_of(2)][1]["status"] == "ok"


def test_mlflow_gets_a_run_per_trial(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason=WHY)
    pytest.importorskip("sqlalchemy", reason=WHY)
    out = tmp_path / "out"
    assert "mlflow server" in exported(folder, "mlflow", out)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{out / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(results()[1].row.suite)

    def stored() -> dict:
        return {run.data.tags["peftbench.key"]: run for run in client.search_runs([experiment.experiment_id])}

    runs = stored()
    assert set(runs) == {result.row.key for result in results()}
    ok, oom, nan = (runs[key_of(place)] for place in (1, 2, 3))
    assert (ok.info.status, oom.info.status) == ("FINISHED", "FAILED")
    assert oom.data.tags["message"] == MESSAGE
    assert ok.data.params["method"] == "lora"
    assert runs[key_of(0)].data.params["seed"] == "null"
    assert ok.data.metrics["score_judge"] == 0.75
    history = client.get_metric_history(ok.info.run_id, "step/loss")
    assert [(m.step, m.value) for m in history] == [(step.step, step.loss) for step in results()[1].steps]
    losses = client.get_metric_history(nan.info.run_id, "step/loss")
    assert [math.isnan(m.value) for m in losses] == [False, False, True]
    assert len(client.get_metric_history(nan.info.run_id, "step/gradient_norm")) == 2  # not the largest float
    assert "0 trials written" in exported(folder, "mlflow", out)
    rewritten(folder)
    assert "1 trial written" in exported(folder, "mlflow", out)
    assert len(stored()) == 4
    assert stored()[key_of(2)].info.status == "FINISHED"
    with sqlite3.connect(out / "mlflow.db") as opened:
        assert opened.execute("select count(*) from runs where lifecycle_stage = 'deleted'").fetchone() == (1,)


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
    with pytest.raises(UserError, match=f"{name} is there and not from an earlier export"):
        export.export(folder, target, place)
    assert (place / name).read_text() == "# mine\n"
    assert len(list(place.iterdir())) == 1


def test_a_csv_of_other_columns_is_not_replaced_and_an_earlier_export_is(folder: Path, tmp_path: Path) -> None:
    for _ in range(2):
        export.export(folder, "csv", tmp_path / "out")
    (tmp_path / "out" / "trials.csv").write_text("name,date\n")
    with pytest.raises(UserError, match="not from an earlier export"):
        export.export(folder, "csv", tmp_path / "out")


@pytest.mark.parametrize("inside", ["", "trials", "steps", "search"])
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
