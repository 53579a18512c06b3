"""A results folder that is exported, and ``peftbench export`` in a process of its own."""

from __future__ import annotations

import importlib
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from peftbench.records import Result
from peftbench.results.store import record_grid, write
from tests.support.documents import ROOT
from tests.support.results_factory import make_result, store

SECRETS = {
    "WANDB_API_KEY": "a" * 20 + "secret-one-0123456789",
    "HF_TOKEN": "hf_secret_two",
}
MESSAGE = "CUDA out of memory: tried to allocate 2 GiB"


def library(name: str, group: str) -> ModuleType:
    """A library of a group that ``make test`` does not install; ``make exports`` installs it and lets no test skip."""
    if os.environ.get("PEFTBENCH_ALL_GROUPS"):
        return importlib.import_module(name)
    return pytest.importorskip(name, reason=f"it is in the dependency group {group}: make exports")


def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set variables that no export may store, and wait for no disk."""
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


def stored(place: Path) -> Path:
    """A results folder with these trials, and one of an earlier grid."""
    place = store(place / "results" / "night", *results(), tasks=("judge",))
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
