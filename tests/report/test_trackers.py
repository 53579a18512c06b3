"""Trials exported to experiment trackers, read back with the real library of each (``make exports``)."""

from __future__ import annotations

import json
import math
import os
import sqlite3
import struct
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from peftbench import cli
from peftbench.report import export
from tests.support import exports
from tests.support.exports import MESSAGE, exported, key_of, library, results, rewritten
from tests.support.results_factory import make_result, store


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    exports.quiet(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return exports.stored(tmp_path)


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
    library("wandb", "export")
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
    library("trackio", "export")
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
    library("mlflow", "export")
    library("sqlalchemy", "export")
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
    assert export.export(folder, "mlflow", out).new == 0
    rewritten(folder)
    assert export.export(folder, "mlflow", out).new == 1
    assert len(stored()) == 4
    assert stored()[key_of(2)].info.status == "FINISHED"
    with sqlite3.connect(out / "mlflow.db") as opened:
        assert opened.execute("select count(*) from runs where lifecycle_stage = 'deleted'").fetchone() == (1,)


UNKNOWN = ({"started_at": None}, {"finished_at": None}, {"started_at": None, "finished_at": None})


@pytest.fixture
def timeless(tmp_path: Path) -> Path:
    """Trials of which one has no beginning, one no end, one neither, as a dead trial's row may be."""
    rows = [make_result(seed=seed, **times) for seed, times in enumerate(UNKNOWN)]
    return store(tmp_path / "results" / "night", *rows, tasks=("judge",))


def test_an_unknown_beginning_or_end_is_neither_1970_nor_the_time_of_the_export(timeless: Path, tmp_path: Path) -> None:
    library("mlflow", "export")
    began, ended = (
        round(1000 * datetime.fromisoformat(getattr(make_result().row, name)).timestamp())
        for name in ("started_at", "finished_at")
    )
    before = time.time() * 1000 - 1
    assert export.export(timeless, "mlflow", tmp_path / "out").new == 3
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'out' / 'mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name != 'Default'")
    found = {run.data.params["seed"]: run for run in client.search_runs([experiment.experiment_id])}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    times = {seed: (run.info.start_time, run.info.end_time) for seed, run in found.items()}
    assert times["0"] == (ended, ended)  # MLflow has no run without a beginning; the setting started_at says it
    assert found["0"].data.params["started_at"] == "null"
    assert times["1"] == (began, None)
    assert times["2"][0] > before
    assert times["2"][1] is None
    at = {
        seed: {m.timestamp for m in client.get_metric_history(run.info.run_id, "step/loss")}
        for seed, run in found.items()
    }
    assert (at["0"], at["1"], at["2"]) == ({ended}, {began}, {times["2"][0]})
    assert export.export(timeless, "mlflow", tmp_path / "out").new == 0


def test_trackio_gets_trials_without_times_once(timeless: Path, tmp_path: Path) -> None:
    library("trackio", "export")
    assert "3 trials written" in exported(timeless, "trackio", tmp_path / "out")
    assert "0 trials written" in exported(timeless, "trackio", tmp_path / "out")


@pytest.mark.parametrize(("stored", "said"), [(b"mine", "is no SQLite store"), (None, "MLflow cannot write to")])
def test_a_store_that_mlflow_cannot_use_is_told(
    stored: bytes | None, said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library("mlflow", "export")
    place = tmp_path / "out" / "mlflow.db"
    place.parent.mkdir()
    if stored is None:
        with sqlite3.connect(place) as opened:  # as of another version of MLflow
            opened.execute("create table alembic_version (version_num varchar(32))")
            opened.execute("insert into alembic_version values ('of the future')")
    else:
        place.write_bytes(stored)
    assert cli.main(["export", str(folder), "--to", "mlflow", "-o", str(place.parent)]) == 2
    assert said in capsys.readouterr().err
    assert stored in (None, place.read_bytes())
