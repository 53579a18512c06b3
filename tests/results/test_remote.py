"""Results at a URL, in memory for the rules; test_remote_s3.py has a real server."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from peftbench import cli
from peftbench.commands import sending
from peftbench.errors import UserError
from peftbench.results import folder, remote, remote_names
from peftbench.results.store import compact, read, write
from tests.support.remote_runs import finished_trials_survive, lose_the_machine, run_trials, seeds_at
from tests.support.results_factory import make_result


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


def test_finished_trials_are_there_when_the_machine_is_lost(
    memory: fsspec.AbstractFileSystem, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished_trials_survive(memory, "memory://bucket/nights/monday", cache, monkeypatch)


def test_a_reader_fetches_only_what_has_changed(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "memory://bucket/r"
    run_trials(url, range(2), monkeypatch)
    fetched: list[str] = []
    get = type(memory).get_file
    monkeypatch.setattr(
        type(memory), "get_file", lambda self, path, *rest: (fetched.append(path), get(self, path, *rest))
    )
    assert seeds_at(url) == [0, 1]
    assert len(fetched) == 4
    fetched.clear()
    assert seeds_at(url) == [0, 1]
    assert fetched == []
    memory.rm(f"{url}/trials", recursive=True)
    with pytest.raises(UserError, match="no such bucket or folder, or it holds no results"):
        folder.located(url)


def test_a_broken_connection_loses_nothing_and_is_told(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, put = "memory://bucket/r", type(memory).put_file

    def broken(self, *args, **more):
        raise ConnectionResetError("connection reset by peer")

    def breaks(number: int) -> None:
        if number == 1:
            monkeypatch.setattr(type(memory), "put_file", broken)

    said = run_trials(url, range(4), monkeypatch, before=breaks)
    here = remote.copy_of(url, "run")
    assert said.count("connection reset by peer") == 1, "told once, not for each trial"
    assert f"finished trials are in {here}; the same command sends them" in said
    assert sorted(read(here).trials["seed"]) == [0, 1, 2, 3]
    assert seeds_at(url) == [0]
    monkeypatch.setattr(type(memory), "put_file", put)
    assert "all results are at" in run_trials(url, range(4, 5), monkeypatch)
    assert seeds_at(url) == [0, 1, 2, 3, 4]


def test_an_error_before_any_trial_has_ended_says_nothing_of_results(memory: fsspec.AbstractFileSystem) -> None:
    out = io.StringIO()
    with pytest.raises(UserError), sending.sender("memory://bucket/r", out):
        raise UserError("the base model is missing")
    assert out.getvalue() == ""


def test_a_connection_that_comes_back_is_used(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    put, calls = type(memory).put_file, []

    def flaky(self, *args, **more):
        calls.append(args)
        if 4 <= len(calls) <= 5:
            raise TimeoutError("slow")
        return put(self, *args, **more)

    monkeypatch.setattr(type(memory), "put_file", flaky)
    said = run_trials("memory://bucket/r", range(4), monkeypatch)
    assert "TimeoutError: slow" in said
    assert "all results are at memory://bucket/r" in said
    assert seeds_at("memory://bucket/r") == [0, 1, 2, 3]


def test_a_push_that_breaks_between_its_files_leaves_no_trial_half(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, put = "memory://bucket/r", type(memory).put_file
    run_trials(url, range(2), monkeypatch)
    for fails_at in range(8):
        left = [fails_at]

        def breaking(self, *args, left=left, **more):
            left[0] -= 1
            if left[0] < 0:
                raise OSError("gone")
            return put(self, *args, **more)

        monkeypatch.setattr(type(memory), "put_file", breaking)
        run_trials(url, range(10 + fails_at, 11 + fails_at), monkeypatch)
        monkeypatch.setattr(type(memory), "put_file", put)
        tables = read(folder.located(url))
        assert {0, 1} <= set(tables.trials["seed"])
        assert tables.steps.groupby("key").size().to_dict() == dict.fromkeys(tables.trials["key"], 3)


def test_two_runs_into_one_url_lose_no_trial(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "memory://bucket/r"
    machines = []
    for name in "ab":
        monkeypatch.setenv("XDG_CACHE_HOME", str(Path(os.environ["XDG_CACHE_HOME"]).parent / name))
        machines.append(remote.working(url))
    for number in range(6):
        here = machines[number % 2]
        write(here.folder, make_result(seed=number), ("judge",))
        remote.push(here, set())
    for here in machines:
        compact(here.folder)
        remote.push(here, set())
    assert seeds_at(url) == list(range(6))


def test_a_run_deletes_no_result_that_another_one_has_stored_there(
    memory: fsspec.AbstractFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both ran the same trial; the first one to merge its files must not take away the row of the other."""
    url, machines = "memory://bucket/r", {}
    for machine in ("first", "second"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        machines[machine] = remote.working(url)
        write(machines[machine].folder, make_result(seed=0, finished_at=f"2026-11-22T12:00:0{len(machines)}+00:00"))
        remote.push(machines[machine], set())
    compact(machines["first"].folder)
    remote.push(machines["first"], set())
    assert len(memory.glob(f"{url}/trials/*.parquet")) == 2
    assert "2026-11-22T12:00:02" in read(folder.located(url)).trials["finished_at"].item(), "one row, the newer"
    compact(machines["second"].folder)
    remote.push(machines["second"], set())
    again = remote.working(url).folder
    compact(again)
    assert read(again).trials["finished_at"].item().startswith("2026-11-22T12:00:02")


def test_logs_and_adapters_of_ended_trials_go_along_and_adapters_come_back_if_asked_for(
    memory: fsspec.AbstractFileSystem, cache: Path
) -> None:
    here = remote.working("memory://bucket/r")
    for name in (
        "logs/k1.log",
        "logs/k2.log",
        "search/logs/k1.log",
        "adapters/k1/deep/a.bin",
        "adapters/k1/.half",
        ".lock2",
    ):
        (here.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (here.folder / name).write_text(name)
    remote.push(here, {"k1"})
    assert sorted(memory.find("memory://bucket/r")) == [
        "/bucket/r/adapters/k1/deep/a.bin",
        "/bucket/r/logs/k1.log",
        "/bucket/r/search/logs/k1.log",
    ]
    lose_the_machine(cache)
    again = remote.working("memory://bucket/r").folder
    assert not any((again / name).exists() for name in ("logs", "search", "adapters"))
    remote.working("memory://bucket/r", adapters=True)
    adapter = again / "adapters/k1/deep/a.bin"
    assert adapter.read_text() == "adapters/k1/deep/a.bin"
    remote.push(remote.working("memory://bucket/r"), set())
    assert adapter.exists(), "not fetched is not deleted"
    assert len(memory.find("memory://bucket/r")) == 3


def test_a_name_that_leads_out_of_the_copy_is_not_fetched(memory: fsspec.AbstractFileSystem, cache: Path) -> None:
    assert [
        remote._counts(name, ["logs", "adapters"])
        for name in ("logs/../../x", "adapters//x", "../grid.json", "logs/a.log")
    ] == [
        False,
        False,
        False,
        True,
    ]


def test_a_wrong_scheme_is_answered_with_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "s33://bucket/x"]) == 2
    said = capsys.readouterr().err
    assert "did you mean s3://?" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("given", ["s3:/bucket/x", Path("s3://bucket/x")])
def test_a_url_without_a_slash_does_not_become_a_folder_here(given: str | Path) -> None:
    with pytest.raises(UserError, match="did you mean 's3://bucket/x'"):
        remote.named(given)
    assert remote.named("results/x") == Path("results/x")
    assert remote.named("S3://bucket/x") == "S3://bucket/x"
    assert remote.named(None) is None


@pytest.mark.parametrize("told", ["modify", "last_write_time", "LastModified", None])
def test_a_grid_of_equal_size_is_fetched_whatever_a_filesystem_tells_of_a_file(
    told: str | None, memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, find, get = "memory://bucket/r", type(memory).find, type(memory).get_file
    run_trials(url, range(1), monkeypatch)
    times, fetched = {}, []

    def found(self, path, detail=False, **more):
        every = {
            name: {"size": info["size"], told: times.get(name, 1)}
            for name, info in find(self, path, detail=True).items()
        }
        return every if detail else list(every)

    monkeypatch.setattr(type(memory), "find", found)
    monkeypatch.setattr(
        type(memory), "get_file", lambda self, path, *rest: (fetched.append(path), get(self, path, *rest))
    )
    grid = folder.located(url) / "grid.json"
    new = memory.cat_file(f"{url}/grid.json").replace(b"run x", b"run y")
    memory.pipe_file(f"{url}/grid.json", new)
    times["/bucket/r/grid.json"] = 2
    fetched.clear()
    folder.located(url)
    assert grid.read_bytes() == new
    assert len(fetched) == (4 if told is None else 1)


def test_a_scheme_may_be_in_capitals(memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    run_trials("memory://bucket/r", range(1), monkeypatch)
    assert seeds_at("Memory://bucket/r") == [0]


@pytest.mark.parametrize(("scheme", "extra"), [("s3", "s3"), ("gs", "gs")])
def test_a_library_that_is_not_installed_is_one_sentence_with_the_command(
    scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*args, **more):
        raise ImportError(f"Install {scheme}fs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    assert cli.main(["answer", f"{scheme}://bucket/x"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{scheme}://bucket/x needs a library that this environment lacks: pip install 'peftbench[{extra}]'" in said


def test_no_permission_is_told_before_anything_runs(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self, *args, **more):
        raise PermissionError("Access Denied")

    monkeypatch.setattr(type(memory), "pipe_file", refuse)
    with pytest.raises(UserError, match=r"memory://bucket/r cannot be written: no permission \(Access Denied\)"):
        remote.working("memory://bucket/r")
    monkeypatch.setattr(type(memory), "find", refuse)
    with pytest.raises(UserError, match="cannot be read: no permission"):
        remote.fetched("memory://bucket/r")


def test_a_filesystem_is_opened_without_options_it_may_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem

    class Strict(MemoryFileSystem):  # as sftp, which passes every option to its connection
        def __init__(self) -> None:
            super().__init__()

    fsspec.register_implementation("strict", Strict, clobber=True)
    with pytest.raises(UserError, match="holds no results"):
        remote.fetched("strict://bucket/r")


def test_a_filesystem_with_real_folders_is_written_and_read(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/shared/nights/2026-01-01"
    assert "all results are at" in run_trials(url, range(2), monkeypatch)
    assert seeds_at(url) == [0, 1]
    lose_the_machine(cache)
    run_trials(url, range(2, 3), monkeypatch)
    assert seeds_at(url) == [0, 1, 2]
    assert sorted(path.name for path in (tmp_path / "shared/nights/2026-01-01").iterdir()) == [
        *("examples", "grid.json", "steps", "trials")
    ]


def test_a_copy_for_reading_has_nothing_that_is_not_there(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "memory://bucket/r"
    run_trials(url, range(2), monkeypatch)
    here = folder.located(url)
    (here / ".remote.json").unlink()
    write(here, make_result(seed=9), ("judge",))
    (here / "grid.json").write_text("{}")
    assert seeds_at(url) == [0, 1]
    assert (here / "grid.json").read_text() != "{}"


def test_a_night_that_is_merged_while_nights_are_fetched_is_listed_again(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = "memory://bucket/nights/2026-01-01"
    run_trials(url, range(2), monkeypatch)
    old, new = (f"/bucket/nights/2026-01-01/trials/{make_result(seed=1).row.key}{end}.parquet" for end in ("", "-new"))
    get = type(memory).get_file

    def merging(self, path, *rest):
        if path == old and memory.exists(old):
            memory.mv(old, new)
        return get(self, path, *rest)

    monkeypatch.setattr(type(memory), "get_file", merging)
    (night,) = remote.nights("memory://bucket/nights")
    assert sorted(read(night).trials["seed"]) == [0, 1]


def test_a_copy_whose_name_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "copy").write_text("a file")
    with pytest.raises(UserError, match="copy cannot be written: File exists"):
        remote_names.note(tmp_path / "copy", "memory://bucket/r")
    assert remote_names.name_of(tmp_path / "copy") == str(tmp_path / "copy")


def test_nights_at_a_url_are_a_history_and_have_their_names(
    memory: fsspec.AbstractFileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    names = ["2026-01-01", "2026-01-02"]
    urls = [f"memory://bucket/nights/{name}" for name in names]
    for url in urls:
        run_trials(url, range(2), monkeypatch)
    find, listed = type(memory).find, []
    monkeypatch.setattr(
        type(memory), "find", lambda self, path, **more: (listed.append(path), find(self, path, **more))[1]
    )
    assert cli.main(["history", "memory://bucket/nights", "--format", "json"]) == 0
    assert listed == ["/bucket/nights"], "once for all nights"
    found = json.loads(capsys.readouterr().out)["nights"]
    assert [(night["name"], night["folder"]) for night in found] == list(zip(names, urls, strict=True))
    assert cli.main(["compare", *urls, "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [found[side]["folder"] for side in ("old", "new")] == urls
    assert cli.main(["history", "memory://bucket/none"]) == 2
    assert "memory://bucket/none: there is no such bucket or folder" in capsys.readouterr().err
    assert cli.main(["import", "hf-method-comparison", "x.csv", "-o", "memory://bucket/y"]) == 2
    assert "import memory://bucket/y: files and -o are on this machine" in capsys.readouterr().err
