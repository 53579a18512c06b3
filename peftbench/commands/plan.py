"""``peftbench plan``: a suite's cells, which are unsupported and why, and with ``--memory`` the memory of each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from peftbench.commands import FAILED, default_settings, plan_json, plan_time, selection
from peftbench.commands.progress import wrapped
from peftbench.errors import UserError
from peftbench.methods.deployed_forms import plan_notes
from peftbench.records import Trial
from peftbench.records.devices import ranks
from peftbench.records.units import memory
from peftbench.records.wording import abridged

if TYPE_CHECKING:
    from peftbench.runner.preflight.texts import Texts
    from peftbench.suite import Suite

_OFFLINE = "none can run here, as HF_HUB_OFFLINE is set and base {!r} is not in the hub's cache"


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
    time: bool = False
    """Whether to measure a few steps of each cell and predict how long the grid takes."""
    as_json: bool = False
    """Whether to print one JSON document in place of text."""


def plan(suite: Suite, how: PlanOptions) -> int:
    """Print a suite's cells, or their predicted memory, and return the exit code: 1 if no cell can run."""
    from peftbench.measure import device
    from peftbench.models import find, here
    from peftbench.planner import memory_sizes
    from peftbench.runner import prepare
    from peftbench.runner.preflight.texts import Texts
    from peftbench.suite import expand, learning_rate_search, smoke

    memory_sizes.check(how.budget, how.reserve)
    known = Texts(stand_in=suite.smoke)
    folder = here.described if how.memory else here.folder
    out = sys.stderr if how.as_json else sys.stdout
    loaded = selection.complete(suite, out, folder, False, known.examples).suite
    kind = device.resolve(loaded.device, present=False)
    small = smoke.smoke(loaded, kind) if loaded.smoke else None
    trials = small.trials if small else expand(loaded, kind)
    if not how.memory and (how.budget or how.reserve or how.fit):
        raise UserError("--budget, --reserve and --fit are about memory: they need --memory")
    if how.time and (how.memory or small):
        raise UserError("--time runs a few steps of the suite's own cells: give it without --memory and --smoke")
    if how.memory:
        return _predict_memory(_with_classes(trials, known), how, loaded)
    reasons = prepare.impossible(trials)
    candidates = () if small else learning_rate_search.candidates(loaded, kind)
    defaults = default_settings.default_lines(loaded, trials)
    lines = _cell_lines(trials, reasons)
    lines += [wrapped(f"note: {line}") for line in (small.notes if small else ())]
    lines += [wrapped(f"default: {line}") for line in defaults]
    if candidates:
        count = selection.count_trials(candidates)
        lines.append(f"a learning-rate search on the validation split runs first: {count}")
    try:
        missing = _missing_device(trials)
        notes = (*prepare.check(trials, known), *_bare_numbers(trials), *plan_notes(trials), *missing)
    except UserError as error:
        lines.append(f"{selection.count_trials(trials)}; none can run, because of the error that follows")
        print("" if how.as_json else "\n".join(lines) + "\n", end="", flush=True)
        raise UserError(f"`peftbench run` would stop with this error: {error}") from None
    offline = find.out_of_reach(trial.base for trial in trials)
    can = _OFFLINE.format(offline[0]) if offline else selection.how_many_can_run(trials, reasons)
    if missing and not offline and can != selection.NONE_CAN_RUN:
        can = selection.NONE_CAN_RUN_HERE
    count = f"{selection.count_trials(trials)}; {can}"
    lines.append(wrapped(count) if offline else count)
    lines += [wrapped(f"note: {note}") for note in notes]
    said = plan_json.Said(reasons, defaults, notes)
    whole = plan_json.of_cells(loaded, trials, said, len(candidates))
    can_run = [t for t in trials if t.cell not in reasons]
    searched = [c for c in candidates if c.candidate_of not in reasons]
    if how.time:
        device.resolve(loaded.device)  # it must be here
        selection.check_devices(loaded, kind)
        cells = plan_time.predict(can_run, searched, known.examples)
        plan_time.keep_unsupported([*trials, *candidates], reasons)
        whole = plan_json.with_time(whole, cells, loaded.workers)
        lines += plan_time.lines(cells, loaded.workers)
    elif can_run and not small and not how.as_json:
        lines.append(wrapped(plan_time.known(can_run, searched, known.examples, loaded.workers)))
    print(plan_json.text(whole) if how.as_json else "\n".join(lines))
    return 0 if any(trial.cell not in reasons for trial in trials) else FAILED


def _cell_lines(trials: Sequence[Trial], reasons: dict[str, str]) -> list[str]:
    """Return a line for each cell: its name, its seeds, and why it is unsupported if it is."""
    from peftbench.commands import terminal

    cells: dict[str, list[int | None]] = {}
    for trial in trials:
        cells.setdefault(trial.cell, []).append(trial.seed)
    rows = []
    for cell, seeds in cells.items():
        named = "no training" if seeds == [None] else f"seed{'s' * (len(seeds) > 1)} {selection.list_seeds(seeds)}"
        rows.append([cell, named, f"unsupported: {reasons[cell]}" if cell in reasons else ""])
    return terminal.aligned(rows).splitlines()


def _bare_numbers(trials: Sequence[Trial]) -> list[str]:
    """Return a note for each task whose answers are all bare numbers."""
    tasks = {task.name: task for trial in trials for task in trial.tasks if task.name in trial.evaluate}
    answers = {name: tuple(dict.fromkeys(task.labels.values())) or task.choices for name, task in tasks.items()}
    return [
        f"task {name!r}: the answers are bare numbers ({abridged(texts, 6)}), and a model does not know what they "
        "stand for; if each means something, give it its word under labels"
        for name, texts in answers.items()
        if texts and tasks[name].kind == "choice" and all(text.strip().lstrip("-").isdecimal() for text in texts)
    ]


def _with_classes(trials: Sequence[Trial], known: Texts) -> Sequence[Trial]:
    """Return the trials with the classes that a head has by the data, if the data is here."""
    from peftbench.records import HEADS
    from peftbench.runner.preflight import classes

    heads = any(task.kind in HEADS for trial in trials for task in trial.tasks)
    try:
        return classes.resolved(trials, known.examples) if heads else trials
    except UserError:  # the head is small, and whatever needs the data reports it
        return trials


def _missing_device(trials: Sequence[Trial]) -> list[str]:
    """Return a note if a run would refuse the device on this machine."""
    from peftbench.measure import device

    kind = trials[0].device
    missing = device.why_no_cuda() if kind == "cuda" else None
    if missing:
        return [f"device cuda: `peftbench run` would stop with an error here, as {missing}"]
    try:
        device.check_count(kind, max(ranks(trial.devices) for trial in trials))
    except UserError as error:
        return [f"`peftbench run` would stop with an error here: {error}"]
    return []


def _predict_memory(trials: Sequence[Trial], how: PlanOptions, suite: Suite) -> int:
    """Print the predicted memory of each cell and return the exit code: 1 if there is no prediction for any.

    Trials that run at the same time share the budget equally.
    """
    from peftbench.models import dry_load, find, quiet_imports
    from peftbench.planner import memory_sizes

    if how.reserve and not how.budget:
        raise UserError(selection.RESERVE_NEEDS_BUDGET)
    if how.fit and not how.budget:
        raise UserError("--fit needs a memory limit: give --budget, for example --budget 16GiB")
    budget = memory_sizes.budget(how.budget, trials[0].device) // suite.workers if how.budget else None
    reserve = memory_sizes.reserve(how.reserve, budget)
    quiet_imports.quantizers()
    from peftbench.commands import memory_table
    from peftbench.planner import forecast

    asked = forecast.Question(budget, reserve, how.fit)
    try:
        with dry_load.quiet():
            found = list(forecast.forecasts(trials, lambda trial: find.config_folder(trial.base), asked))
    except UserError as error:
        raise UserError(f"{suite.options.suite}: {error}") from None
    defaults = default_settings.default_lines(suite, trials)
    notes = [*_missing_device(trials), *_no_reserve(suite, trials, how)]
    if how.as_json:
        reasons = {each.trial.cell: each.problem for each in found if each.problem}
        whole = plan_json.of_cells(suite, trials, plan_json.Said(reasons, defaults, notes))
        print(plan_json.text(plan_json.with_memory(whole, found, asked)))
    else:
        said = [*(f"default: {line}" for line in defaults), *(f"note: {note}" for note in notes)]
        print("\n".join([*memory_table.lines(found, asked, suite.ladder), *map(wrapped, said)]))
    trained = [each for each in found if each.trial.training]
    return FAILED if trained and not any(each.found for each in trained) else 0


def _no_reserve(suite: Suite, trials: Sequence[Trial], how: PlanOptions) -> list[str]:
    """Return a note if a budget may be that of a GPU while the plan is for the CPU, where nothing is reserved."""
    from peftbench.planner import cuda_reserve

    if suite.device != "auto" or trials[0].device != "cpu" or how.budget in (None, "device") or how.reserve:
        return []
    least = memory(min(cuda_reserve.reserve(replace(trial, device="cuda")) for trial in trials), 0)
    return [
        f"device auto is the CPU here, and the whole budget is for tensors; on a GPU at least {least} of it would not "
        "be: plan for one with --set device=cuda"
    ]
