"""``peftbench run``: run a suite's stages, and print their progress and how they ended."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from peftbench.commands import FAILED, default_settings, selection, sending
from peftbench.errors import UserError
from peftbench.results import cache, remote

if TYPE_CHECKING:
    from peftbench.runner.executor.kinds import Executor
    from peftbench.runner.grid import Execute, Outcome
    from peftbench.runner.prepare import Grid, Options
    from peftbench.runner.stages import Stage
    from peftbench.suite import Suite, SuiteOptions


@dataclass(frozen=True)
class RunOptions:
    """How a suite is run, apart from what is in it."""

    results: Path | str | None = None
    """Results folder, a URL if it is a text; None for ``results/SUITE``."""
    fresh: bool = False
    """Whether finished trials run again."""
    keep_adapters: bool = False
    """Whether each tuned adapter is saved in the results folder."""
    budget: str | None = None
    """Memory that trials may need, like ``16GiB``, or ``device``; None for no limit."""
    reserve: str | None = None
    """Part of the budget for memory that is not in tensors; None for an estimate for each trial's device."""
    executor: str = "local"
    """Where trials run: ``local`` or ``ray``."""
    address: str | None = None
    """Address of a cluster of Ray; None for this machine alone."""


@dataclass(frozen=True)
class RunSummary:
    """How a run ended. Its scores and measurements are in the results folder."""

    folder: Path
    """The results folder; of a URL, its copy on this machine."""
    statuses: Mapping[str, int]
    """Trials of the grid by status (``ok``, ``unsupported``, ``oom``, ...), those of earlier runs included."""
    failed: bool
    """Whether ``peftbench run`` would exit with 1: a trial failed, none can run, a strict audit fails, or results could
    not be sent to their URL."""


def command(suite: Suite, how: RunOptions) -> int:
    """Run a suite as the command line does, with its progress on standard error; return the exit code."""
    from peftbench.commands import ending
    from peftbench.records import FINAL, Status

    try:
        found = run(suite, how, sys.stderr, shows=True)
    except KeyboardInterrupt:
        print(ending.after_interrupt(_folder(suite, how)), end="", file=sys.stderr)
        raise
    if found.statuses.get(Status.OK) and not suite.smoke:
        sys.stderr.flush()
        ending.show(found.folder, unfinished=any(s not in FINAL and s != Status.SKIPPED for s in found.statuses))
    elif suite.smoke and not found.failed:
        print(_after_smoke(replace(suite.options, smoke=False)))
    return FAILED if found.failed else 0


def _after_smoke(options: SuiteOptions) -> str:
    """Return the next command after a smoke run; if the suite itself cannot run here, first why not."""
    from peftbench.commands import after_smoke, progress

    command, problem = _command(options, with_only=True), after_smoke.problem(options)
    if not problem:
        return f"next: {command}"
    said = f"the smoke run is fine, but the suite itself cannot run here yet: {problem}"
    return f"{progress.wrapped(said)}\nnext: mend that, then {command.replace('run', 'plan', 1)}"


def _folder(suite: Suite, how: RunOptions) -> Path:
    if isinstance(how.results, str):
        return remote.copy_of(how.results, "run")
    return how.results or Path("results") / suite.name


def run(suite: Suite, how: RunOptions, out: TextIO, shows: bool = False) -> RunSummary:
    """Run a suite: its learning-rate search if it has one, then its grid. Finished trials are not run again.

    Args:
        suite: a validated suite.
        how: where its results go, and what else the command sets.
        out: where progress, notes and failures are printed.
        shows: whether the table is printed there once every cell has its first seed.

    Raises:
        UserError: if a base model or data is missing, or the results folder cannot be used.
    """
    from peftbench.commands import progress
    from peftbench.models import here
    from peftbench.planner import memory_sizes
    from peftbench.runner.executor import kinds

    memory_sizes.check(how.budget, how.reserve)
    kinds.check(how.executor, how.address)
    if how.reserve and not how.budget:
        raise UserError(selection.RESERVE_NEEDS_BUDGET)
    resolved = selection.complete(suite, out, here.complete, True)
    folder = _folder(resolved.suite, how)
    with kinds.opened(how.executor, how.address) as executor:
        _check_elsewhere(executor, resolved.suite, how)
        statuses, failed = _run_stages(resolved, how, folder, executor, out, shows)
    differ = progress.warn_of_differences(folder, resolved.suite.strict, out)
    return RunSummary(folder, statuses, failed or (differ and resolved.suite.strict))


def _check_elsewhere(executor: Executor, suite: Suite, how: RunOptions) -> None:
    """Check that nothing of a run follows from this machine if its trials run on others.

    Raises:
        UserError: if something does.
    """
    if not executor.elsewhere:
        return
    if not suite.threads and not suite.smoke:
        raise UserError(
            "threads: by default a trial has an equal share of this machine's cores, but its trials run on others: "
            "give threads in the suite, or --set threads=4"
        )
    if how.budget == "device":
        raise UserError("--budget device: this machine's device says nothing of the cluster's; give a size, like 16GiB")


def _run_stages(
    resolved: selection.Resolved, how: RunOptions, folder: Path, executor: Executor, out: TextIO, shows: bool
) -> tuple[Mapping[str, int], bool]:
    """Run a suite's stages; return the trials of its grid by status, and whether the run failed."""
    from peftbench.commands import progress
    from peftbench.planner import memory_sizes
    from peftbench.runner import prepare, stages

    loaded = resolved.suite
    kind = executor.device(loaded.device)
    if executor.name == "local":  # with Ray the nodes decide
        selection.check_devices(loaded, kind)
    budget = memory_sizes.budget(how.budget, kind) if how.budget else None
    shares = loaded.workers if executor.shares_memory else 1
    options = prepare.Options(
        how.fresh or loaded.smoke,
        how.keep_adapters,
        budget,
        memory_sizes.reserve(how.reserve, budget and budget // shares),
        whole_command=_command(loaded.options, with_only=False),
        strict=loaded.strict,
        parameters=resolved.parameters,
        watch=loaded.watch,
        ladder=loaded.ladder,
        stand_in=loaded.smoke,
        predicts=not loaded.smoke,
        shares_budget=executor.shares_memory,
    )
    recorded = _command(loaded.options, with_only=True)
    cache.keep_suite(folder, loaded.options.suite)
    planned = "" if loaded.smoke else f"{recorded.replace('run', 'plan', 1)} --time"
    failed, statuses = False, dict[str, int]()
    with sending.sender(how.results, out, how.keep_adapters) as sender:
        for stage in stages.stages(loaded, kind, folder):
            for line in () if stage.searches else default_settings.default_lines(loaded, stage.trials):
                print(progress.wrapped(f"default: {line}"), file=out)
            tables = shows and not stage.searches and not loaded.smoke
            workers = executor.at_once(stage.trials, loaded.workers)
            outcome = _run_stage(stage, workers, recorded, options, sender, executor, tables, planned)
            failed |= _has_failed(stage, outcome)
            statuses = statuses if stage.searches else outcome.statuses
    return statuses, failed or sender.failed


def _run_stage(
    stage: Stage,
    workers: int,
    command: str,
    options: Options,
    sender: sending.Sender,
    executor: Executor,
    tables: bool = False,
    planned: str = "",
) -> Outcome:
    """Run one stage of a suite and print how it ended, where the sender prints.

    Args:
        stage: the search, or the grid.
        workers: trials at the same time.
        command: as rows have it.
        options: how it is run.
        sender: takes finished rows, and has the stream that is printed to.
        executor: runs its trials.
        tables: whether the table is printed once every cell has its first seed.
        planned: the command that measures the time of the same trials; empty if no time is told.
    """
    from peftbench.commands import progress
    from peftbench.runner import others, prepare

    if stage.searches:
        options = _for_search(options, len(stage.trials) < len(stage.whole))
    out = sender.out
    prepared = prepare.prepare(stage.trials, stage.folder, workers, command, stage.whole, options)
    with others.announced(stage.folder) as seen:
        for note in [others.note(seen)] if seen else []:
            print(progress.wrapped(f"note: {note}"), file=out)
        prepare.check_bases(prepared.pending)
        pending, notes = executor.reserved(prepared.pending)
        for note in notes:
            print(progress.wrapped(f"note: {note}"), file=out)
        prepared = replace(prepared, pending=tuple(pending))
        return _run_prepared(stage, prepared, sender, executor.run, tables, planned)


def _run_prepared(
    stage: Stage, prepared: Grid, sender: sending.Sender, execute: Execute, tables: bool, planned: str
) -> Outcome:
    """Run a stage whose base models and data were found; the arguments are those of ``_run_stage``."""
    from peftbench.commands import ending, expected, progress, rounds
    from peftbench.runner import grid

    out, workers = sender.out, prepared.workers
    done = len(prepared.jobs) - len(prepared.pending)
    what = "learning-rate search: " if stage.searches else ""
    for note in (*stage.notes, *(() if stage.searches else prepared.notes)):
        print(progress.wrapped(f"note: {note}"), file=out)
    counted = f"{what}{selection.count_trials(stage.trials)}, {done} of them done already -> {stage.folder}"
    print(progress.wrapped(counted), file=out)
    times = expected.Expected(prepared)
    for line in times.before(planned) if planned else ():
        print(line, file=out)
    followed = rounds.Rounds(prepared, partial(ending.so_far, stage.folder, workers) if tables else None)
    with progress.shown(len(prepared.pending), out, followed, times) as observer:
        outcome = grid.run(prepared, sender.beside(times.beside(observer)), execute)
    counts = ", ".join(f"{count} {status}" for status, count in sorted(outcome.statuses.items()))
    print(progress.wrapped(f"{counts} -> {stage.folder}"), file=out)
    if outcome.overhead_seconds is not None:
        what = "starting its process, reading data, attaching and saving"
        print(progress.wrapped(f"overhead: {outcome.overhead_seconds:.2f} s per trial (median), for {what}"), file=out)
    for sentence in (*times.sentences(), *(outcome.data if planned else ())):
        print(progress.wrapped(sentence), file=out)
    failed = [result for result in outcome.failed if result.row.status != "skipped"]  # --budget asks for skipping
    if failed:
        print("these did not end ok:", file=out)
        for result in failed:
            print(progress.wrapped(f"  {progress.sentence(result)}"), file=out)
    if _none_can_run(stage, outcome):
        print(selection.NONE_CAN_RUN, file=out)
    return outcome


def _has_failed(stage: Stage, outcome: Outcome) -> bool:
    """Whether a stage ended with trials that failed. A search expects some of its candidates to fail."""
    expected = ("ok", "unsupported", "skipped", *(("oom", "diverged", "inert") if stage.searches else ()))
    return _none_can_run(stage, outcome) or any(status not in expected for status in outcome.statuses)


def _none_can_run(stage: Stage, outcome: Outcome) -> bool:
    return set(outcome.statuses) == {"unsupported"} and not stage.searches


def _for_search(options: Options, selected: bool) -> Options:
    """Return the options of a search.

    A search is not run afresh for a selection of cells, since other cells of the grid depend on it too.
    """
    return replace(options, keep_adapters=False, fresh=options.fresh and not selected)


def _command(options: SuiteOptions, with_only: bool) -> str:
    """Return the command as reports show it, with paths inside the working directory relative to it.

    Other paths stay, so that the command can be pasted; rows have it without them.

    Args:
        options: the suite and what was set.
        with_only: whether the selection of trials is part of it.
    """
    words = ["peftbench", "run", options.suite, *(["--smoke"] if options.smoke else [])]
    words += [word for value in options.overrides for word in ("--set", value)]
    words += [word for value in options.only if with_only for word in ("--only", value)]
    if options.seeds:
        words += ["--seeds", options.seeds]
    here = f"{Path.cwd()}/"
    return shlex.join(re.sub(rf"(^|=){re.escape(here)}", r"\1", word) for word in words)
