"""``peftbench plan``: a suite's cells, which are unsupported and why, and with ``--memory`` the memory of each."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftbench.commands import FAILED, selection
from peftbench.errors import UserError
from peftbench.records import Trial

if TYPE_CHECKING:
    from peftbench.suite import Suite


@dataclass(frozen=True)
class PlanOptions:
    """What to predict beside the list of cells."""

    memory: bool = False
    """Whether to predict each cell's memory."""
    budget: str | None = None
    """The memory that trials may need, like ``16GiB``, or ``device``."""
    reserve: str | None = None
    """Part of the budget for memory that is not in tensors; None for an estimate for each trial's device."""
    fit: str | None = None
    """``batch_size`` or ``sequence_length``: find the largest that fits."""


def plan(suite: Suite, how: PlanOptions) -> int:
    """Print a suite's cells, or their predicted memory, and return the exit code: 1 if no cell can run."""
    from peftbench.measure import device
    from peftbench.models import here
    from peftbench.runner import prepare
    from peftbench.runner.preflight.texts import Texts
    from peftbench.suite import expand, learning_rate_search, smoke

    known = Texts(stand_in=suite.smoke)
    folder = here.described if how.memory else here.folder
    loaded = selection.complete(suite, sys.stdout, folder, False, known.examples).suite
    kind = device.resolve(loaded.device, present=False)
    small = smoke.smoke(loaded, kind) if loaded.smoke else None
    trials = small.trials if small else expand(loaded, kind)
    if not how.memory and (how.budget or how.reserve or how.fit):
        raise UserError("--budget, --reserve and --fit are about memory: they need --memory")
    if how.memory:
        return _predict_memory(trials, how, loaded)
    reasons = prepare.impossible(trials)
    _print_cells(trials, reasons)
    candidates = () if small else learning_rate_search.candidates(loaded, kind)
    for line in small.notes if small else ():
        print(f"note: {line}")
    for line in selection.default_lines(loaded, trials):
        print(f"default: {line}")
    if candidates:
        count = selection.count_trials(candidates)
        print(f"a learning-rate search on the validation split runs first: {count}")
    try:
        notes = prepare.check(trials, known)
    except UserError as error:
        print(f"{selection.count_trials(trials)}; none can run, because of the error that follows")
        sys.stdout.flush()
        raise UserError(f"`peftbench run` would stop with this error: {error}") from None
    possible = sum(trial.cell not in reasons for trial in trials)
    print(f"{selection.count_trials(trials)}; {selection.how_many_can_run(trials, reasons)}")
    for note in (*notes, *_missing_device(trials)):
        print(f"note: {note}")
    return 0 if possible else FAILED


def _print_cells(trials: Sequence[Trial], reasons: dict[str, str]) -> None:
    """Print a line for each cell: its name, its seeds, and why it is unsupported if it is."""
    from peftbench.commands import terminal

    cells: dict[str, list[int | None]] = {}
    for trial in trials:
        cells.setdefault(trial.cell, []).append(trial.seed)
    rows = []
    for cell, seeds in cells.items():
        named = "no training" if seeds == [None] else f"seed{'s' * (len(seeds) > 1)} {selection.list_seeds(seeds)}"
        rows.append([cell, named, f"unsupported: {reasons[cell]}" if cell in reasons else ""])
    print(terminal.aligned(rows), end="")


def _missing_device(trials: Sequence[Trial]) -> list[str]:
    """Return a note if a run would refuse the device on this machine."""
    from peftbench.measure import device

    missing = device.why_no_cuda() if trials[0].device == "cuda" else None
    return [f"device cuda: `peftbench run` would stop with an error here, as {missing}"] if missing else []


def _predict_memory(trials: Sequence[Trial], how: PlanOptions, suite: Suite) -> int:
    """Print the predicted memory of each cell and return the exit code: 1 if there is no prediction for any.

    Trials that run at the same time share the budget equally.
    """
    from peftbench.models import find
    from peftbench.planner import memory_sizes

    if how.reserve and not how.budget:
        raise UserError(selection.RESERVE_NEEDS_BUDGET)
    if how.fit and not how.budget:
        raise UserError("--fit needs a memory limit: give --budget, for example --budget 16GiB")
    budget = memory_sizes.budget(how.budget, trials[0].device) // suite.workers if how.budget else None
    reserve = memory_sizes.reserve(how.reserve, budget)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # its import reports which kernels are missing
    from peftbench.commands import memory_table
    from peftbench.planner import forecast

    asked = forecast.Question(budget, reserve, how.fit)
    try:
        found = list(forecast.forecasts(trials, lambda trial: find.config_folder(trial.base), asked))
    except UserError as error:
        raise UserError(f"{suite.options.suite}: {error}") from None
    defaults = [f"default: {line}" for line in selection.default_lines(suite, trials)]
    notes = [f"note: {note}" for note in _missing_device(trials)]
    print("\n".join([*memory_table.lines(found, asked), *defaults, *notes]))
    trained = [each for each in found if each.trial.training]
    return FAILED if trained and not any(each.found for each in trained) else 0
