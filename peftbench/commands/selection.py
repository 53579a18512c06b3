"""What a command is about: the suite that it names, as a person chose it, and how large that is in words."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from peftbench.records import Trial

if TYPE_CHECKING:
    from peftbench.suite import Suite

NO_BUDGET = "--reserve: a part of the memory there is; give that with --budget, like 16GiB"
NOTHING = "none of them can run, every cell is unsupported"


def tell_left_out() -> None:
    """Say which methods of other packages cannot be used."""
    from peftbench.methods import METHODS

    for problem in METHODS.problems:
        print(f"peftbench: {problem}", file=sys.stderr)


def load(arguments: argparse.Namespace, out: TextIO) -> tuple[Suite, int | None]:
    """Return the suite that a command names, with its options applied, and the parameters that its ranks meet."""
    from peftbench import suite

    options = {"overrides": arguments.set, "only": arguments.only, "seeds": arguments.seeds, "smoke": arguments.smoke}
    loaded = suite.load(arguments.suite, **options)
    if loaded.match is None or arguments.smoke:
        return loaded, None
    from peftbench.commands import progress
    from peftbench.planner import match

    found = match.apply(loaded)
    print("\n".join(progress.wrapped(line) for line in found.lines()), file=out)
    return found.suite, found.budget


def extent(trials: Sequence[Trial]) -> str:
    """Return how many cells, seeds and trials there are; how many seeds, and which, is what ``--seeds`` decides."""
    seeds = sorted({trial.seed for trial in trials if trial.seed is not None})
    cells = len({trial.cell for trial in trials})
    named = f"{len(seeds):,} seed{'s' * (len(seeds) != 1)} ({listed(seeds)})" if seeds else "no seed"
    return f"{cells:,} cell{'s' * (cells != 1)}, {named}: {len(trials):,} trial{'s' * (len(trials) != 1)}"


def listed(seeds: Sequence[int | None]) -> str:
    """Return seeds in words, the middle of many left out."""
    named = [str(seed) for seed in seeds]
    return ", ".join(named if len(named) <= 10 else [*named[:3], "...", named[-1]])
