"""``peftbench run``: a suite's stages, what is said while they run and how it ends."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.commands import FAILED, selection
from peftbench.errors import UserError

if TYPE_CHECKING:
    from peftbench.runner.prepare import Options
    from peftbench.runner.stages import Stage


def run(arguments: argparse.Namespace) -> int:
    """Run a suite and return the exit code."""
    from peftbench.commands import progress
    from peftbench.measure import device
    from peftbench.planner import memory_sizes
    from peftbench.runner import prepare, stages

    selection.tell_left_out()
    loaded, parameters = selection.load(arguments, sys.stderr)
    kind = device.resolve(loaded.device)
    folder = Path(arguments.results) if arguments.results else Path("results") / loaded.name
    if arguments.reserve and not arguments.budget:
        raise UserError(selection.NO_BUDGET)
    budget = memory_sizes.budget(arguments.budget, kind) if arguments.budget else None
    reserve = memory_sizes.reserve(arguments.reserve, budget and budget // loaded.workers)
    signal.signal(signal.SIGTERM, _interrupt)
    options = prepare.Options(
        arguments.fresh or arguments.smoke,
        arguments.keep_adapters,
        budget,
        reserve,
        whole_command=_command(arguments, ("set",)),
        strict=loaded.strict,
        parameters=parameters,
        predicts=not arguments.smoke,
    )
    command = _command(arguments, ("set", "only"))
    failed = [_run_stage(s, loaded.workers, command, options) for s in stages.stages(loaded, kind, folder)]
    unfair = progress.differences(folder, loaded.strict)
    return FAILED if any(failed) or (unfair and loaded.strict) else 0


def _run_stage(stage: Stage, workers: int, command: str, options: Options) -> bool:
    """Run one stage of a suite and tell how it ended; return whether it is a failure."""
    from peftbench.commands import progress
    from peftbench.runner import grid, prepare

    prepared = prepare.prepare(
        stage.trials,
        stage.folder,
        workers,
        command,
        stage.whole,
        _of_search(options, len(stage.trials) < len(stage.whole)) if stage.searches else options,
    )
    ready = len(prepared.jobs) - len(prepared.pending)
    what = "search for learning rates: " if stage.searches else ""
    for note in stage.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{what}{selection.extent(stage.trials)}, {ready} of them done already -> {stage.folder}", file=sys.stderr)
    with progress.shown(len(prepared.pending)) as observer:
        outcome = grid.run(prepared, observer)
    counts = ", ".join(f"{count} {status}" for status, count in sorted(outcome.statuses.items()))
    print(f"{counts} -> {stage.folder}", file=sys.stderr)
    if outcome.overhead_seconds is not None:
        print(
            f"overhead: {outcome.overhead_seconds:.2f} s a trial (median), for starting its process, reading data, "
            "attaching and saving",
            file=sys.stderr,
        )
    for sentence in outcome.data:
        print(progress.wrapped(sentence), file=sys.stderr)
    failed = [result for result in outcome.failed if result.row.status != "skipped"]  # those were asked for
    if failed:
        print("these did not end ok:", file=sys.stderr)
        for result in failed:
            print(progress.wrapped(f"  {progress.sentence(result)}"), file=sys.stderr)
    if set(outcome.statuses) == {"unsupported"} and not stage.searches:
        print(selection.NOTHING, file=sys.stderr)
        return True
    # a budget asks for skipping, and a search goes to where training fails
    asked = ("ok", "unsupported", "skipped", *(("oom", "diverged", "inert") if stage.searches else ()))
    bad = sum(count for status, count in outcome.statuses.items() if status not in asked)
    return bad > 0


def _of_search(options: Options, selected: bool) -> Options:
    """Return the options for a search: one that other cells of the grid rest on is not run afresh for some of them."""
    return replace(options, keep_adapters=False, fresh=options.fresh and not selected)


def _command(arguments: argparse.Namespace, options: Sequence[str]) -> str:
    """Return the command as it is told in reports: with these options, absolute paths cut to their last part."""
    from peftbench.records import failures

    words = ["peftbench", "run", arguments.suite, *(["--smoke"] if arguments.smoke else [])]
    for name in options:
        words += [word for value in getattr(arguments, name) for word in (f"--{name}", value)]
    if arguments.seeds:
        words += ["--seeds", arguments.seeds]
    return " ".join(shlex.quote(failures.without_paths(word)) for word in words)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
