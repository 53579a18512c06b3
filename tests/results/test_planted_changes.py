"""The nights that the validation of ``compare`` and ``history`` keeps between its runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from peftbench.records import Example
from tools.validation import planted_changes
from tools.validation.planted_changes import Plant

PLANT = Plant("ten lines", "moved", "data", lines=10)


def test_a_kept_night_is_run_again_if_it_is_not_of_the_same_suite_data_and_plant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []

    def run(command: list[str], cwd: Path, **more: object) -> SimpleNamespace:
        place = cwd / command[-1]
        assert not place.exists(), "nothing of the earlier night is left"
        place.mkdir(parents=True)
        ran.append((cwd / "train.jsonl").read_text())
        return SimpleNamespace(returncode=0)

    (tmp_path / "peftbench").mkdir()
    monkeypatch.setattr(planted_changes, "ROOT", tmp_path)
    monkeypatch.setattr(planted_changes.subprocess, "run", run)
    packages = {"peftbench": "1", "torch": "2"}
    examples = [Example(f"prompt {number}", "answer") for number in range(planted_changes.TRAIN)]
    monkeypatch.setattr(planted_changes.describe, "examples", lambda split: examples)
    monkeypatch.setattr(planted_changes.environment, "describe", lambda: {"packages": dict(packages)})

    def runs(plant: Plant | None = None) -> int:
        before = len(ran)
        planted_changes.night(tmp_path / "work", "00", plant)
        return len(ran) - before

    (tmp_path / "work").mkdir()
    assert (runs(), runs()) == (1, 0)
    packages["peftbench"] = "2"
    assert runs() == 0, "other rules judge the same nights"
    assert (runs(PLANT), runs(PLANT), runs(replace(PLANT, lines=9)), runs()) == (1, 0, 1, 1)
    assert len(set(ran)) == 3
    monkeypatch.setattr(planted_changes, "TRAIN", 20)
    assert (runs(), runs()) == (1, 0)
    monkeypatch.setattr(planted_changes, "SUITE", planted_changes.SUITE.replace("rank: 16", "rank: 8"))
    assert (runs(), runs()) == (1, 0)
    packages["torch"] = "3"
    assert (runs(), runs()) == (1, 0)
    (tmp_path / "work" / "made" / "00").write_text("")  # of an earlier version, which did not say
    assert (runs(), runs()) == (1, 0)
