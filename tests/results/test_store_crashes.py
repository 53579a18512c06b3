from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from peftbench.results.store import Tables, compact, done, open_for_run, read, write
from tests.support.results_factory import make_result
from tests.support.store_checks import KINDS, contents, fill, plain


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class Crash(BaseException):
    """The process is gone: nothing that it would still do happens."""


def prepare_compaction(folder: Path) -> None:
    fill(folder, 2)
    compact(folder)
    write(folder, make_result(seed=3))
    write(folder, make_result(seed=5, status="killed"))


def prepare_added_task(folder: Path) -> None:
    fill(folder, 2)
    compact(folder)
    write(folder, make_result(seed=2))


AGAIN = {"seed": 1, "steps": 7, "examples": 5, "finished_at": "2026-11-23T00:00:00+00:00"}
SCENES = {
    "compact": (prepare_compaction, compact),
    "added task": (prepare_added_task, lambda folder: open_for_run(folder, ["judge", "compute"])),
    "again from a part": (prepare_compaction, lambda folder: write(folder, make_result(**AGAIN))),
    "again from a loose file": (
        lambda folder: fill(folder, 2),
        lambda folder: write(folder, make_result(**AGAIN)),
    ),
    "first write": (prepare_compaction, lambda folder: write(folder, make_result(seed=8))),
    "killed again": (prepare_compaction, lambda folder: write(folder, make_result(seed=5, status="killed"))),
}
LATER = ("again from a loose file", "killed again", "added task")
"""Scenes that are slow: they write as the others do."""


@pytest.fixture
def in_memory(tmp_path: Path) -> Iterator[Path]:
    shared = Path("/dev/shm")
    if not os.access(shared, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


def crash_at(monkeypatch: pytest.MonkeyPatch, number: int) -> dict[str, int]:
    """Make the number-th os.replace or os.unlink the first thing that does not happen any more."""
    seen = {"calls": 0}

    def counted(real):  # type: ignore[no-untyped-def]
        def call(*args, **kwargs):  # type: ignore[no-untyped-def]
            seen["calls"] += 1
            if seen["calls"] >= number:
                raise Crash
            real(*args, **kwargs)

        return call

    monkeypatch.setattr(os, "replace", counted(os.replace))
    monkeypatch.setattr(os, "unlink", counted(os.unlink))
    return seen


@pytest.mark.parametrize("scene", [pytest.param(name, marks=[pytest.mark.slow] * (name in LATER)) for name in SCENES])
def test_a_crash_at_any_instant_loses_and_duplicates_nothing(in_memory: Path, scene: str) -> None:
    prepare, act = SCENES[scene]
    expected = in_memory / "expected"
    prepare(in_memory / "prepared")
    shutil.copytree(in_memory / "prepared", expected)
    old = contents(read(expected))
    finished = {key: what for key, what in old.items() if key in done(expected)}
    act(expected)
    new = contents(read(expected))
    for number in range(1, 100):
        folder = in_memory / str(number)
        shutil.copytree(in_memory / "prepared", folder)
        with pytest.MonkeyPatch.context() as patch:
            seen = crash_at(patch, number)
            with contextlib.suppress(Crash):
                act(folder)
        found = contents(read(folder))
        for key in finished:
            assert found[key] in (old[key], new[key]), (number, "before healing")
        assert set(found.items()) <= set(old.items()) | set(new.items())
        assert done(folder) >= set(finished)
        open_for_run(folder, ["judge"])
        healed = contents(read(folder))
        assert healed == found
        assert healed == contents(Tables(*(plain(folder, kind) for kind in KINDS)))
        act(folder)
        assert contents(read(folder)) == new
        assert not list(folder.rglob("*.tmp"))
        if seen["calls"] < number:
            break
    else:
        pytest.fail("the scene never came to its end")
    assert number > 3


def test_one_writer_compacts_while_others_write_and_one_reads(tmp_path: Path) -> None:
    open_for_run(tmp_path, ["judge"])
    write(tmp_path, make_result(seed=999))
    errors: list[BaseException] = []
    finished = threading.Event()

    def guarded(work) -> threading.Thread:  # type: ignore[no-untyped-def]
        def run() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def read_all() -> None:
        seen = 0
        while not finished.is_set():
            found = contents(read(tmp_path))
            assert all(what[2:] == (3, 2) for what in found.values())
            assert len(found) >= seen
            seen = len(found)

    def compact_all() -> None:
        while not finished.is_set():
            compact(tmp_path)

    others = [guarded(read_all), guarded(compact_all)]
    writers = [
        guarded(lambda first=first: [write(tmp_path, make_result(seed=first + i)) for i in range(12)])
        for first in (0, 100)
    ]
    for thread in writers:
        thread.join()
    finished.set()
    for thread in others:
        thread.join()
    assert not errors, errors
    assert len(done(tmp_path)) == 25
