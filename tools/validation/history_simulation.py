"""Validate ``peftbench history`` by simulation: ``python -m tools.validation.history_simulation [--draws N]``.

Grids of 40 cells with known truth are given to the functions that find changes. The shares of false alarms and of
planted changes that are found are written to ``results/reference/history.json``, from which ``tools/docs/reference.py``
renews ``docs/history.md``. If the folder of the peer's results is there (``PEFTBENCH_SHARED_DATA``), what the command
says about them is recorded too; ``--peer`` renews that alone.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.records.watch import Watch
from peftbench.report.history.text import text
from peftbench.results.history import history
from peftbench.results.history.cell_changes import noisy_changes
from peftbench.results.history.common_changes import common_changes
from peftbench.results.history.series import Point, Series
from peftbench.results.history.watching import LEVEL
from peftbench.results.imported import hf_method_comparison, writing
from peftbench.results.watch.clocks import REFERENCE_SD
from peftbench.results.watch.quantities import FIXED, Quantity, score
from tools.validation import crossed_simulation

PATH = crossed_simulation.PATH.with_name("history.json")
CELLS = 40
SPEED = next(quantity for quantity in FIXED if quantity.name == "tokens_per_second")
SCORE = score("judge")
NOISE = 0.02
"""Standard deviation of a night's value: of speed relative, of scores a difference."""


@dataclass(frozen=True)
class Design:
    """A grid that runs every night."""

    name: str
    quantity: str = "speed"
    nights: int = 30
    noise: str = "normal"
    """normal; heavy: Student's t with 3 degrees of freedom; lasting: a night's deviation lasts to the next by half."""
    machine: float = 0.0
    """Standard deviation of what all cells have in common in a night, relative."""
    least_percent: float = 0.0
    """Least change that counts, of speed in percent; 0 shows the tests alone."""
    fall: float = 0.0
    """Planted: relative fall of speed, or fall of the score."""
    falling: int = 0
    """Cells that fall."""
    ago: int = 0
    """Number of nights since the fall, the first night after it included."""
    cells: int = CELLS
    """Cells of the grid."""
    reference: float | None = None
    """Standard deviation of the reference step's speed in a night relative to the machine's; None if it is not timed.
    """


@dataclass(frozen=True)
class Found:
    """Shares of the draws."""

    false: float
    """A change that is none is told: of a cell that did not fall, or in the wrong night by more than one."""
    false_common: float
    """A common change is told although fewer than two thirds of the cells fell, or in a wrong night."""
    cell_found: float | None
    """Of the cells that fell: their fall is told; None if none fell."""
    common_found: float | None
    """The fall is told as one of all cells; None if not all fell."""
    draws: int


def designs() -> Iterator[Design]:
    """Yield the cases of the committed validation."""
    for nights in (9, 14, 30, 90, 365):
        for noise in ("normal", "heavy"):
            yield Design("no change", nights=nights, noise=noise)
    yield Design("no change", noise="lasting")
    yield Design("no change", machine=0.03)
    for noise in ("normal", "heavy", "lasting"):
        yield Design("no change", machine=0.03, noise=noise, least_percent=5.0)
    for nights in (2, 5, 30):
        yield Design("no change", "score", nights)
    for ago in (1, 3, 7, 14):
        for fall in (0.05, 0.10, 0.20):
            yield Design("slower", fall=fall, falling=1, ago=ago, least_percent=3.0)
    yield Design("slower", nights=90, fall=0.10, falling=1, ago=10, least_percent=5.0)
    yield Design("all slower", fall=0.10, falling=CELLS, ago=3, machine=0.01, least_percent=5.0)
    beside = Design("no change", cells=5, machine=0.08, reference=REFERENCE_SD, least_percent=5.0)
    for nights in (9, 21, 90):
        yield replace(beside, nights=nights)
        for ago in (1, 3):
            yield replace(beside, name="all slower", nights=nights + ago - 1, fall=0.10, falling=5, ago=ago)
    yield replace(beside, name="all slower", reference=None, nights=21, fall=0.10, falling=5, ago=1)
    for fall in (0.005, 0.01, 0.0165):
        yield Design("all scores lower", "score", 2, fall=fall, falling=CELLS, ago=1)


def draw(design: Design, generator: np.random.Generator) -> list[Series]:
    """Return the series of one grid."""
    shape = design.cells, design.nights
    noise = generator.standard_t(3, shape) if design.noise == "heavy" else generator.normal(size=shape)
    if design.noise == "lasting":
        for night in range(1, design.nights):
            noise[:, night] = 0.5 * noise[:, night - 1] + 0.75**0.5 * noise[:, night]
    machine = design.machine * generator.normal(size=design.nights)
    fallen = np.zeros(shape)
    if design.falling:
        fallen[: design.falling, design.nights - design.ago :] = design.fall
    if design.quantity == "speed":
        values = 1000 * (1 + NOISE * noise) * (1 + machine) * (1 - fallen)
    else:
        values = 0.6 + NOISE / 2 * noise - fallen
    clock = 1 + (design.reference or 0.0) * generator.normal(size=design.nights)
    timed = design.reference is not None
    quantity: Quantity = SPEED if design.quantity == "speed" else SCORE
    return [
        Series("base", f"cell {i}", quantity, (), False, tuple(_points(row, (1 + machine) * clock if timed else None)))
        for i, row in enumerate(values)
    ]


def _points(values: np.ndarray[Any, Any], clock: np.ndarray[Any, Any] | None) -> Iterator[Point]:
    for night, value in enumerate(values.tolist()):
        yield Point(night, value, 1, by_reference=None if clock is None else ("torch", value / float(clock[night])))


def simulate(design: Design, draws: int, seed: int) -> Found:
    """Judge many grids of a design."""
    generator, watch = np.random.default_rng(seed), Watch(speed_percent=design.least_percent)
    first, fell = design.nights - design.ago, {f"cell {i}" for i in range(design.falling)}
    false = false_common = cells = common = 0.0
    for _ in range(draws):
        found = draw(design, generator)
        own = noisy_changes(found, watch, LEVEL / 2)[0]
        shared = common_changes(found, watch, LEVEL / 2)
        right = {c.cell for c in own if c.cell in fell and abs(c.night - first) <= 1 and c.worse}
        false += any(c.cell not in fell or abs(c.night - first) > 1 for c in own)
        told = [c for c in shared if design.falling == design.cells and abs(c.night - first) <= 1 and c.worse]
        false_common += len(told) < len(shared)
        cells += len(right) / max(1, design.falling)
        common += bool(told)
    return Found(
        false / draws,
        false_common / draws,
        cells / draws if design.falling else None,
        common / draws if design.falling == design.cells else None,
        draws,
    )


def peer() -> str | None:
    """Return what the command says about the peer's results of a year; None if they are not on this machine."""
    folder = Path(os.environ.get("PEFTBENCH_SHARED_DATA", "/nowhere")) / "hf_method_comparison"
    if not (folder / "history.csv").is_file():
        return None
    with tempfile.TemporaryDirectory() as place:
        nights = Path(place) / "peer"
        writing.write(hf_method_comparison.read([folder / "history.csv"]), nights)
        return text(history([nights]))


def record(draws: int) -> dict[str, Any]:
    """Return all results that the document shows, as JSON."""
    rows = []
    for place, design in enumerate(designs()):
        found = simulate(design, draws, place)
        rows.append({"design": asdict(design), "found": asdict(found)})
        print(design, found, flush=True)
    kept = json.loads(PATH.read_text()).get("peer") if PATH.is_file() else None
    return {"draws": draws, "cells": CELLS, "rows": rows, "peer": peer() or kept}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--peer", action="store_true", help="renew only what is said about the peer's results")
    given = parser.parse_args()
    if given.peer:
        kept = json.loads(PATH.read_text())
        made = {**kept, "peer": peer() or kept["peer"]}
    else:
        made = record(given.draws)
    crossed_simulation.write(made, PATH)
