"""What several commands share: warnings about unusable methods, matched ranks, and counts of trials in words."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from peftbench.records import Trial

if TYPE_CHECKING:
    from peftbench.suite import Suite

RESERVE_NEEDS_BUDGET = "--reserve: sets aside a part of the budget, so it needs --budget, like 16GiB"
NONE_CAN_RUN = "none of them can run, every cell is unsupported"


def warn_of_unusable_methods(out: TextIO | None = None) -> None:
    """Print which methods of other packages failed to load.

    Args:
        out: where to print; standard error if None.
    """
    from peftbench.methods import METHODS

    for problem in METHODS.problems:
        print(f"peftbench: {problem}", file=out or sys.stderr)


def match_ranks(suite: Suite, out: TextIO) -> tuple[Suite, int | None]:
    """Choose the ranks of a suite with ``match:`` and print them; smoke mode leaves ranks as they are.

    Args:
        suite: a validated suite.
        out: where to print the chosen ranks.

    Returns:
        The suite with its ranks, and the budget of trainable parameters; None without ``match:``.
    """
    if suite.match is None or suite.smoke:
        return suite, None
    from peftbench.commands import matched_ranks, progress
    from peftbench.planner import match

    found = match.apply(suite)
    print("\n".join(progress.wrapped(line) for line in matched_ranks.lines(found)), file=out)
    return found.suite, found.budget


def count_trials(trials: Sequence[Trial]) -> str:
    """Return ``14 cells, 3 seeds (0, 1, 2): 40 trials``; what ``--seeds`` changes is shown."""
    seeds = sorted({trial.seed for trial in trials if trial.seed is not None})
    cells = len({trial.cell for trial in trials})
    named = f"{len(seeds):,} seed{'s' * (len(seeds) != 1)} ({list_seeds(seeds)})" if seeds else "no seed"
    return f"{cells:,} cell{'s' * (cells != 1)}, {named}: {len(trials):,} trial{'s' * (len(trials) != 1)}"


def list_seeds(seeds: Sequence[int | None]) -> str:
    """Return ``0, 1, 2``; of more than ten seeds, the first three and the last."""
    named = [str(seed) for seed in seeds]
    return ", ".join(named if len(named) <= 10 else [*named[:3], "...", named[-1]])
