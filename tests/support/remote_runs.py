"""Trials that end at once, run into a results folder at a URL."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import fsspec
import pytest

from peftbench.commands import sending
from peftbench.records import Phase
from peftbench.results import folder
from peftbench.results.store import done, open_for_run, read, record_grid
from peftbench.runner import grid
from peftbench.runner.executor import Event, local
from tests.support.results_factory import make_result


def run_trials(url: str, seeds: range, monkeypatch: pytest.MonkeyPatch, before=lambda number: None) -> str:
    """Run trials that end at once into a URL; return what is printed."""
    out = io.StringIO()
    stub = SimpleNamespace(unsupported=None, cell="lora r=8 fp32", seed=0, timeout_seconds=None)
    results = [make_result(seed=seed) for seed in seeds]
    jobs = tuple(SimpleNamespace(trial=stub, key=result.row.key, log=None) for result in results)

    def run(jobs, workers):
        for number, (job, result) in enumerate(zip(jobs, results, strict=True)):
            before(number)
            yield Event(job, Phase.EVALUATE, result=result)

    monkeypatch.setattr(local, "run", run)
    with sending.sender(url, out) as sender:
        place = sender.remote.folder
        open_for_run(place, ["judge"])
        record_grid(place, sorted({*done(place), *(job.key for job in jobs)}), "peftbench run x")
        left = tuple(job for job in jobs if job.key not in done(place))
        assert len(left) == len(jobs)
        grid.run(
            SimpleNamespace(folder=place, tasks=("judge",), jobs=jobs, pending=jobs, workers=1),
            sender.beside(print_nothing),
        )
    return out.getvalue()


def print_nothing(event: Event) -> None:
    pass


def seeds_at(url: str) -> list[int]:
    return sorted(read(folder.located(url)).trials["seed"])


def lose_the_machine(cache: Path) -> None:
    """Delete everything on this machine."""
    for path in sorted(cache.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()


def finished_trials_survive(
    system: fsspec.AbstractFileSystem, url: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that each trial is at the URL when the next begins, and that a run continues on a new machine."""

    def look(number: int) -> None:
        assert len(system.glob(f"{url}/trials/*.parquet")) == number

    run_trials(url, range(3), monkeypatch, before=look)
    assert not system.glob(f"{url}/**/.*"), "nothing but results"
    lose_the_machine(cache)
    assert seeds_at(url) == [0, 1, 2]
    lose_the_machine(cache)
    assert "all results are at" in run_trials(url, range(3, 5), monkeypatch)
    assert seeds_at(url) == [0, 1, 2, 3, 4]
    assert len(system.glob(f"{url}/trials/*.parquet")) == 1, "merged there as here"
    tables = read(folder.located(url))
    assert tables.steps["key"].nunique() == 5
