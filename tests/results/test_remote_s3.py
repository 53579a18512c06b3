"""Results at a real S3 server on this machine (``make exports``)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

import peftbench
from peftbench import cli
from peftbench.errors import UserError
from peftbench.results import remote
from tests.support import colours
from tests.support.exports import library
from tests.support.remote_runs import finished_trials_survive, lose_the_machine
from tests.support.results_factory import make_grid


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    library("s3fs", "s3")
    motoserver = library("moto.server", "s3")
    server = motoserver.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[fsspec.AbstractFileSystem]:
    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    system = fsspec.filesystem("s3", use_listings_cache=False)
    system.clear_instance_cache()
    system = fsspec.filesystem("s3", use_listings_cache=False)
    system.mkdir("bucket")
    yield system
    system.rm("bucket", recursive=True)
    system.clear_instance_cache()


def test_finished_trials_are_there_when_the_machine_is_lost(
    s3: fsspec.AbstractFileSystem, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_trials_survive(s3, "s3://bucket/nights/monday", cache, monkeypatch)


def test_no_such_bucket_is_told(s3: fsspec.AbstractFileSystem, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="s3://nowhere/r cannot be written: The specified bucket does not exist"):
        remote.working("s3://nowhere/r")
    assert cli.main(["report", "s3://nowhere/r"]) == 2
    assert "s3://nowhere/r cannot be read: The specified bucket does not exist" in capsys.readouterr().err
    assert cli.main(["report", "s3://bucket/nothing"]) == 2
    assert "s3://bucket/nothing: there is no such bucket or folder, or it holds no results" in capsys.readouterr().err


def test_a_server_that_does_not_answer_is_told(
    s3: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3.clear_instance_cache()
    assert cli.main(["report", "s3://bucket/r"]) == 2
    said = capsys.readouterr().err
    assert "s3://bucket/r cannot be read" in said
    assert "Could not connect" in said


def test_a_suite_runs_into_s3_continues_on_another_machine_and_every_command_reads_it(
    s3: fsspec.AbstractFileSystem,
    tmp_path: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    colours.with_validation(tmp_path, "device: cpu\nseeds: 2\nmethods: {adapter: {learning_rate: 1e-3}}\n")
    url = "s3://bucket/nights/x"
    assert cli.main(["run", "x.yaml", "-o", url, "--seeds", "1"]) == 0
    assert f"all results are at {url}" in capsys.readouterr().err
    lose_the_machine(cache)
    run = peftbench.run_suite("x.yaml", url)
    assert run.statuses == {"ok": 2}
    lose_the_machine(cache)
    assert len(peftbench.read_results(url).trials) == 2
    make_grid(tmp_path / "other", steps=3, examples=2)
    for path in (tmp_path / "other").rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            s3.put_file(str(path), f"bucket/other/{path.relative_to(tmp_path / 'other').as_posix()}")
    capsys.readouterr()
    assert cli.main(["report", url, "--format", "csv"]) == 0
    assert "adapter" in capsys.readouterr().out
    assert cli.main(["report", url, "-o", "page.html"]) == 0
    assert cli.main(["answer", "s3://bucket/other"]) == 0
    assert cli.main(["compare", "s3://bucket/other", "s3://bucket/other"]) in (0, 1, 3)
    assert cli.main(["export", url, "--to", "csv", "-o", "csv"]) == 0
    assert len((tmp_path / "csv" / "trials.csv").read_text().splitlines()) == 3
