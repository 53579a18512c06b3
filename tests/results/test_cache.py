"""Files that are kept for later commands."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from peftbench.results import cache


def test_files_are_kept_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in (None, ""):
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False) if given is None else monkeypatch.setenv(
            "XDG_CACHE_HOME", given
        )
        assert cache.folder() == tmp_path / ".cache" / "peftbench"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.folder() == tmp_path / "x" / "peftbench"


def test_a_reader_finds_the_old_file_or_the_new_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a" / "b.json"
    cache.keep(path, "old")
    monkeypatch.setattr(os, "replace", lambda *names: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        cache.keep(path, "new")
    assert [(each.name, each.read_text()) for each in path.parent.iterdir()] == [("b.json", "old")]
