"""Synthetic nights for tests: a folder of dated results folders with real files, with what each test plants in them."""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from peftbench.records import Result
from peftbench.results.store import write_new
from tests.support.results_factory import ENVIRONMENT, make_result

FIRST = datetime.date(2026, 1, 1)
Planted = Callable[[int, int, int], Mapping[str, Any]]
"""From the numbers of night, cell and seed to columns that replace those of an ordinary night; ``score`` is one."""


@dataclass(frozen=True)
class Team:
    """A grid that runs every night."""

    nights: int = 10
    cells: int = 4
    seeds: int = 1
    speed_noise: float = 0.01
    """Standard deviation of a night's speed of one trial, relative."""
    machine_noise: float = 0.0
    """Standard deviation of a night's speed that all cells have in common, relative."""
    score_noise: float = 0.0
    """Standard deviation of a night's score; 0 repeats exactly, as a CPU does."""
    device: str = "cpu"
    seed: int = 0
    planted: Planted = field(default=lambda night, cell, seed: {})


def name_of(night: int) -> str:
    """Return the name of a night's folder."""
    return (FIRST + datetime.timedelta(days=night)).isoformat()


def make_nights(folder: Path, team: Team) -> Path:
    """Write all nights of a team into a folder and return it."""
    with mock.patch("os.fsync"):  # no test cuts the power
        for night in range(team.nights):
            write_new(folder / name_of(night), results_of(team, night), ("judge",))
    return folder


def results_of(team: Team, night: int) -> list[Result]:
    """Return the results of one night."""
    draw = random.Random(f"{team.seed} {night}")
    machine = 1 + draw.gauss(0, team.machine_noise)
    return [_result(team, night, cell, seed, machine, draw) for cell in range(team.cells) for seed in range(team.seeds)]


def packages(**versions: str) -> str:
    """Return the environment with other versions of packages, as a row stores it."""
    return json.dumps(ENVIRONMENT | {"packages": ENVIRONMENT["packages"] | versions})  # type: ignore[operator]


def _result(team: Team, night: int, cell: int, seed: int, machine: float, draw: random.Random) -> Result:
    steady = random.Random(f"{cell} {seed}")
    found: dict[str, Any] = {
        "tokens_per_second": (10_000 + 500 * cell) * machine * (1 + draw.gauss(0, team.speed_noise)),
        "peak_train_bytes": 3_000_000 + 10_000 * cell,
        "memory_kind": "tensor_accounting" if team.device == "cpu" else "allocator",
        "checkpoint_bytes": 120_000 + 1_000 * cell,
        "trainable_parameters": 30_000 + 250 * cell,
        "device": team.device,
        "score": 0.6 + 0.2 * steady.random() + draw.gauss(0, team.score_noise),
        "finished_at": f"{name_of(night)}T03:00:00+00:00",
        **team.planted(night, cell, seed),
    }
    scores, status = {"judge": found.pop("score")}, found.pop("status", "ok")
    if status != "ok":
        found = {"finished_at": found["finished_at"]}
    rank = 2 + cell
    key = f"{night:04}{cell:03}{seed:02}"
    return make_result(
        f"lora r={rank} fp32", rank=rank, seed=seed, status=status, scores=scores, steps=0, examples=0, key=key, **found
    )
