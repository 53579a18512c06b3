"""What several commands share: warnings about unusable methods, matched ranks, and counts of trials in words."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from peftbench.records import Base, Trial

if TYPE_CHECKING:
    from peftbench.suite import Suite
    from peftbench.tasks.read import Reader

RESERVE_NEEDS_BUDGET = "--reserve: sets aside a part of the budget, so it needs --budget, like 16GiB"
NONE_CAN_RUN = "none can run, as every cell is unsupported"
NONE_CAN_RUN_HERE = "none can run here: a trial needs other or more devices than this machine has (the last note)"


@dataclass(frozen=True)
class Resolved:
    """A suite that can be expanded."""

    suite: Suite
    parameters: int | None
    """The budget of trainable parameters that ranks were chosen for; None without ``match:``."""


def warn_of_unusable_methods(out: TextIO | None = None) -> None:
    """Print which methods of other packages failed to load.

    Args:
        out: where to print; standard error if None.
    """
    from peftbench.methods import METHODS

    for problem in METHODS.problems:
        print(f"peftbench: {problem}", file=out or sys.stderr)


def complete(
    suite: Suite,
    out: TextIO,
    needed: Callable[[Base], Path | None],
    download: bool,
    examples: Reader | None = None,
) -> Resolved:
    """Return a suite with all that its trials need: defaults that follow from base and data, and matched ranks.

    ``plan`` and ``run`` both call this before they expand a suite, so that they have the same trials.

    Args:
        suite: a validated suite.
        out: where to print the chosen ranks.
        needed: returns the base model's folder, as for ``base_defaults.resolve``.
        download: whether datasets of the hub may be fetched.
        examples: reads a split, as for ``base_defaults.resolve``.

    Raises:
        UserError: if the base model cannot be had, or ranks cannot be chosen.
    """
    from peftbench.suite import base_defaults

    matched, parameters = match_ranks(base_defaults.resolve(suite, needed, download, examples), out)
    return Resolved(matched, parameters)


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


def check_devices(suite: Suite, kind: str) -> None:
    """Check that this machine has as many devices as a trial of a suite needs.

    Raises:
        UserError: if it has not.
    """
    from peftbench.measure import device
    from peftbench.records.devices import ranks

    device.check_count(kind, max(map(ranks, suite.devices), default=1))


def count_trials(trials: Sequence[Trial]) -> str:
    """Return ``14 cells, 3 seeds (0, 1, 2): 40 trials (without training a cell has one trial and no seed)``."""
    seeds = sorted({trial.seed for trial in trials if trial.seed is not None})
    cells = len({trial.cell for trial in trials})
    named = f", {len(seeds):,} seed{'s' * (len(seeds) != 1)} ({list_seeds(seeds)})" if seeds else ""
    once = len(seeds) > 1 and any(trial.seed is None for trial in trials)
    note = " (a cell without training has one trial)" if once else ""
    return f"{cells:,} cell{'s' * (cells != 1)}{named}: {len(trials):,} trial{'s' * (len(trials) != 1)}{note}"


def how_many_can_run(trials: Sequence[Trial], unsupported: Container[str]) -> str:
    """Return how many trials can run: ``all can run``, ``2 can run, 1 is unsupported``.

    Args:
        trials: the trials.
        unsupported: the names of the cells that cannot run.
    """
    possible = sum(trial.cell not in unsupported for trial in trials)
    if not possible:
        return NONE_CAN_RUN
    left = len(trials) - possible
    if not left:
        return "all can run"
    return f"{possible:,} can run, {left:,} {'is' if left == 1 else 'are'} unsupported"


def list_seeds(seeds: Sequence[int | None]) -> str:
    """Return ``0, 1, 2``; of more than ten seeds, the first three and the last."""
    named = [str(seed) for seed in seeds]
    return ", ".join(named if len(named) <= 10 else [*named[:3], "...", named[-1]])
