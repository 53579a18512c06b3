"""How well a clock explains a machine's speed, and what ``compare`` finds then, in unchanged nights that were measured.

    python -m tools.validation.planted_changes --keep /tmp/planted
    python -m tools.validation.clock_noise /tmp/planted/nights

Every ordered pair of the folder's unchanged nights, those whose name is a number, is compared as measured, and with all
speeds of the newer night divided by a factor. ``results/watch/clocks.py`` has the standard deviations that come of it.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench.records.watch import Watch
from peftbench.results.watch import by_kind, clocks, noise
from peftbench.results.watch.comparison import compare
from peftbench.results.watch.findings import ALL_CELLS
from peftbench.results.watch.night import Night, read
from peftbench.results.watch.quantities import FIXED, Seed

OUTPUT = Path(__file__).resolve().parents[2] / "results" / "reference" / "clocks.json"
FACTORS = (1.0, 1.1, 1.15, 1.2)
"""By how much all speeds of the newer night are divided."""
_SPEED = next(quantity for quantity in FIXED if quantity.kind == "speed")
_WATCH = Watch(judge=("speed",))


def slower(night: Night, factor: float) -> Night:
    """Return a night of which each trial was slower by a factor."""
    return dataclasses.replace(night, trials=night.trials.assign(**{_SPEED.name: night.trials[_SPEED.name] / factor}))


def without_reference(night: Night) -> Night:
    """Return a night whose trials did not time the reference step."""
    return dataclasses.replace(night, trials=night.trials.assign(reference_step_seconds=None))


def verdicts(old: Night, new: Night) -> tuple[bool, bool]:
    """Return whether anything is called changed, and whether a slowdown of all cells is found."""
    found = [each for each in compare(old, new, _WATCH).findings if each.verdict in ("regressed", "improved")]
    return bool(found), any(each.cell == ALL_CELLS and each.verdict == "regressed" for each in found)


def left(found: Iterable[Mapping[Seed, float]]) -> tuple[float, float] | None:
    """Return the median of trials' changes and its standard error, of logarithms; None without trials."""
    changes = [change for each in found for change in each.values()]
    spread = noise.spread_over_cells(changes)
    if not spread:
        return None
    return statistics.median(changes), math.sqrt(math.pi / 2) * spread.value / math.sqrt(len(changes))


def remaining(pairs: Sequence[tuple[Night, Night]]) -> dict[str, dict[str, float]]:
    """Return what is left of the common change, by clock: root mean squares over pairs of nights, of logarithms.

    Returns:
        Clock -> ``total``; ``error``, of the median over trials; ``night``, what is left without that error.
    """
    seen: dict[str, list[tuple[float, float] | None]] = {}
    for old, new in pairs:
        cells = by_kind.speeds(_SPEED, old, new, [cell for cell in new.cells if cell in old.cells])[0].values()
        seen.setdefault("none", []).append(left(clocks.differences(one.old, one.new) for one in cells))
        for clock in clocks.CLOCKS:
            seen.setdefault(clock.name, []).append(left(clock.beside(one) for one in cells))
    made = {}
    for name, each in seen.items():
        known = [pair for pair in each if pair]
        total, error = (math.sqrt(statistics.fmean(pair[at] ** 2 for pair in known)) for at in (0, 1))
        made[name] = {"total": total, "error": error, "night": math.sqrt(max(0.0, total**2 - error**2))}
        made[name]["pairs"] = len(known)
    return made


def main() -> None:
    """Judge all pairs of a folder's nights and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nights", type=Path, help="the folder with the nights")
    nights = [read(place) for place in sorted(parser.parse_args().nights.iterdir()) if place.name.isdigit()]
    pairs = list(itertools.permutations(nights, 2))
    judged = {str(factor): [verdicts(old, slower(new, factor)) for old, new in pairs] for factor in FACTORS}
    product = [verdicts(without_reference(old), without_reference(new)) for old, new in pairs]
    found: dict[str, Any] = {
        "nights": len(nights),
        "pairs": len(pairs),
        "remaining": remaining(pairs),
        "changed": {factor: sum(one for one, _ in each) for factor, each in judged.items()},
        "found_in_all_cells": {factor: sum(one for _, one in each) for factor, each in judged.items()},
        "changed_beside_product": sum(one for one, _ in product),
    }
    print(json.dumps(found, indent=1))
    OUTPUT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
