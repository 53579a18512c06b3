"""``peftbench plan``: the cells of a suite, why some cannot be, and with ``--memory`` what each will take."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from peftbench.commands import FAILED, selection
from peftbench.errors import UserError
from peftbench.records import Trial


def plan(arguments: argparse.Namespace) -> int:
    """Print a suite's cells, or what they are predicted to take, and return the exit code."""
    from peftbench import suite
    from peftbench.commands import terminal
    from peftbench.measure import device
    from peftbench.runner import prepare
    from peftbench.suite import learning_rate_search, smoke

    selection.tell_left_out()
    loaded, _ = selection.load(arguments, sys.stdout)
    kind = device.resolve(loaded.device, present=False)
    small = smoke.smoke(loaded, kind) if arguments.smoke else None
    trials = small.trials if small else suite.expand(loaded, kind)
    if not arguments.memory and (arguments.budget or arguments.reserve or arguments.fit):
        raise UserError("--budget, --reserve and --fit are about memory: they need --memory")
    if arguments.memory:
        return _forecast(arguments, trials, loaded.workers)
    cells: dict[str, list[int | None]] = {}
    for trial in trials:
        cells.setdefault(trial.cell, []).append(trial.seed)
    reasons = prepare.impossible(trials)
    rows = []
    for cell, seeds in cells.items():
        named = "no seed" if seeds == [None] else f"seed{'s' * (len(seeds) > 1)} {selection.listed(seeds)}"
        rows.append([cell, named, f"unsupported: {reasons[cell]}" if cell in reasons else ""])
    print(terminal.aligned(rows), end="")
    tried = () if small else learning_rate_search.candidates(loaded, kind)
    for line in small.notes if small else ():
        print(f"note: {line}")
    if tried:
        print(f"before them a search chooses learning rates on the validation split: {selection.extent(tried)}")
    try:
        notes = prepare.check(trials)
    except UserError as error:
        print(selection.extent(trials))
        raise UserError(f"run would refuse this: {error}") from None
    possible = sum(trial.cell not in reasons for trial in trials)
    print(
        f"{selection.extent(trials)}, {possible:,} of them can run"
        if possible
        else f"{selection.extent(trials)}: {selection.NOTHING}"
    )
    for note in (*notes, *_no_device(trials)):
        print(f"note: {note}")
    return 0 if possible else FAILED


def _no_device(trials: Sequence[Trial]) -> list[str]:
    """Return a note where a run would refuse the device."""
    from peftbench.measure import device

    missing = device.why_no_cuda() if trials[0].device == "cuda" else None
    return [f"device cuda: run would refuse this here, as {missing}"] if missing else []


def _forecast(arguments: argparse.Namespace, trials: Sequence[Trial], workers: int) -> int:
    """Print what each cell is predicted to take, against the share of a budget that each of the workers has.

    That fails where there is no figure at all for what trains.
    """
    from peftbench.models import find
    from peftbench.planner import memory_sizes

    if arguments.reserve and not arguments.budget:
        raise UserError(selection.NO_BUDGET)
    if arguments.fit and not arguments.budget:
        raise UserError("--fit: what fits depends on the memory there is; give it with --budget, like 16GiB")
    budget = memory_sizes.budget(arguments.budget, trials[0].device) // workers if arguments.budget else None
    reserve = memory_sizes.reserve(arguments.reserve, budget)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # says at import which kernels it lacks
    from peftbench.commands import memory_table
    from peftbench.planner import forecast

    asked = forecast.Question(budget, reserve, arguments.fit)
    try:
        found = list(forecast.forecasts(trials, lambda trial: find.config_folder(trial.base), asked))
    except UserError as error:
        raise UserError(f"{arguments.suite}: {error}") from None
    print("\n".join([*memory_table.lines(found, asked), *(f"note: {note}" for note in _no_device(trials))]))
    trained = [each for each in found if each.trial.training]
    return FAILED if trained and not any(each.found for each in trained) else 0
