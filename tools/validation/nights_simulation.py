"""How often `peftbench compare` calls an unchanged speed regressed, and how often it finds a cell that became slower.

Two nights of a grid are drawn and given to ``peftbench.results.watch.speed.judge``, the function that ``compare`` uses.
The logarithm of a trial's speed is the cell's own, plus the machine's of that night (8 % between nights), plus a
drift of the night that all cells of a round of seeds share (5 %), plus noise of the trial. A clock of the machine has
its speed and drift, the noise that is assumed of it between nights, and noise of the trial (5 %). The tables of
``docs/statistics.md`` are its output::

    python -m tools.validation.nights_simulation
    python -m tools.validation.nights_simulation --tables 200
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from peftbench.records.watch import DEFAULT
from peftbench.results.watch import speed
from peftbench.results.watch.clocks import CLOCK_SD, REFERENCE_SD, Timed
from peftbench.results.watch.findings import ALL_CELLS, Cell, Finding
from peftbench.results.watch.quantities import FIXED

SPEED = next(quantity for quantity in FIXED if quantity.kind == "speed")
MACHINE_SD, DRIFT_SD = DEFAULT.machine_percent / 100, 0.05
"""Of the change of the machine's speed between two nights, and of its drift within a night."""


@dataclass(frozen=True)
class Design:
    """Two nights of a grid."""

    cells: int
    seeds: int
    trial_sd: float
    """Noise of a trial's speed."""
    cell_sd: float = 0.0
    """Noise of a cell's speed of a night, which its seeds share."""
    unequal: float = 0.0
    """Standard deviation between cells of the logarithm of their noise."""
    clock: str = "reference"
    """What each trial measured of the machine's speed: the reference step, the matrix product, or none."""


def draw(design: Design, factors: list[float], chance: random.Random) -> dict[Cell, Timed]:
    """Return two nights; on the second, cells are faster by their factors."""
    noise = [design.trial_sd * math.exp(chance.gauss(0, design.unequal)) for _ in range(design.cells)]
    nights = []
    for which in range(2):
        machine = chance.gauss(0, MACHINE_SD / math.sqrt(2))
        drift = [chance.gauss(0, DRIFT_SD) for _ in range(design.seeds)]
        clock_sd = REFERENCE_SD if design.clock == "reference" else CLOCK_SD
        clock = machine + chance.gauss(0, clock_sd / math.sqrt(2))
        rows = []
        for place in range(design.cells):
            own = (math.log(factors[place]) if which else 0.0) + chance.gauss(0, design.cell_sd)
            trials = {
                s: math.exp(own + machine + drift[s] + chance.gauss(0, noise[place])) for s in range(design.seeds)
            }
            clocks = {s: math.exp(clock + drift[s] + chance.gauss(0, 0.05)) for s in range(design.seeds)}
            rows.append((trials, *(clocks if design.clock == name else {} for name in ("product", "reference"))))
        nights.append(rows)
    return {
        ("base", f"{place}"): Timed(old[0], new[0], old[1], new[1], old[2], new[2])
        for place, (old, new) in enumerate(zip(*nights, strict=True))
    }


def judged(design: Design, factors: list[float], chance: random.Random) -> dict[str, Finding]:
    """Return the findings of one table by cell."""
    least, machine = DEFAULT.speed_percent / 100, DEFAULT.machine_percent / 100
    return {found.cell: found for found in speed.judge(SPEED, draw(design, factors, chance), least, machine)}


@dataclass(frozen=True)
class Shares:
    """Shares of tables, in percent."""

    false: float
    """Something is called regressed or improved, though nothing changed."""
    unchanged: float
    """Share of cells that are called unchanged if nothing changed."""
    found: tuple[float, ...]
    """The cell that became slower by 10, 20 and 40 % is called regressed."""
    beside: float
    """With one cell slower by 20 %, another one is called regressed or improved."""
    together: tuple[float, ...]
    """If all cells become slower by 10, 15 and 30 %, that of all cells together is called regressed."""


def simulate(design: Design, tables: int, seed: int = 0) -> Shares:
    """Return how often each happens."""
    chance = random.Random(f"{design} {seed}")
    same = [1.0] * design.cells
    null = [judged(design, same, chance) for _ in range(tables)]
    changed = {
        factor: [judged(design, [factor, *same[1:]], chance) for _ in range(tables)] for factor in (0.9, 0.8, 0.6)
    }
    slower = [[judged(design, [factor] * design.cells, chance) for _ in range(tables)] for factor in (0.9, 0.85, 0.7)]
    cells = [each for found in null for name, each in found.items() if name != ALL_CELLS]
    return Shares(
        _share(_moved(found.values()) for found in null),
        _share(each.verdict == "unchanged" for each in cells),
        tuple(_share(found["0"].verdict == "regressed" for found in each) for each in changed.values()),
        _share(_moved(each for name, each in found.items() if name != "0") for found in changed[0.8]),
        tuple(_share(ALL_CELLS in f and f[ALL_CELLS].verdict == "regressed" for f in each) for each in slower),
    )


def _moved(findings: object) -> bool:
    return any(each.verdict in ("regressed", "improved") for each in findings)  # type: ignore[attr-defined]


def _share(claims: Iterator[bool]) -> float:
    listed = list(claims)
    return 100 * sum(listed) / len(listed)


DESIGNS = (
    *(Design(cells, seeds, sd) for cells, seeds in ((5, 3), (14, 3), (14, 5), (40, 3)) for sd in (0.01, 0.02, 0.04)),
    Design(14, 3, 0.04, cell_sd=0.04),
    Design(14, 3, 0.02, unequal=0.5),
    Design(40, 3, 0.04, unequal=0.5),
    Design(14, 1, 0.02),
    *(Design(cells, 3, 0.02, clock=clock) for clock in ("product", "none") for cells in (14, 40)),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=1000, help="pairs of nights of each design")
    tables = parser.parse_args().tables
    head = (
        "cells",
        "seeds",
        "trial",
        "cell",
        "unequal",
        "clock",
        "false",
        "unchanged",
        "10 %",
        "20 %",
        "40 %",
        "beside",
    )
    head = (*head, "all 10 %", "all 15 %", "all 30 %")
    print("| " + " | ".join(head) + " |")
    print("|" + " ---: |" * 5 + " --- |" + " ---: |" * 9)
    for design in DESIGNS:
        found = simulate(design, tables)
        shares = (found.false, found.unchanged, *found.found, found.beside, *found.together)
        parts = (
            *(design.cells, design.seeds, f"{100 * design.trial_sd:g} %", f"{100 * design.cell_sd:g} %"),
            *(f"{design.unequal:g}", design.clock, *(f"{share:.1f}" for share in shares)),
        )
        print("| " + " | ".join(map(str, parts)) + " |", flush=True)


if __name__ == "__main__":
    main()
