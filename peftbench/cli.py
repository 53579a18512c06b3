"""The command line: thin, every command is a call into the library. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from peftbench import __version__
from peftbench.errors import UserError
from peftbench.records import Trial

if TYPE_CHECKING:
    from peftbench.grid import Options
    from peftbench.stages import Stage
    from peftbench.suite import Suite

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes: a trial failed or none can run, a comparison regressed or judged nothing; bad input; Ctrl-C."""
_NO_BUDGET = "--reserve: a part of the memory there is; give that with --budget, like 16GiB"
_NOTHING = "none of them can run, every cell is unsupported"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    arguments = parser().parse_args(argv)
    try:
        code: int = arguments.command(arguments)
        sys.stdout.flush()  # a reader that has gone is noticed here, not as the interpreter ends
        return code
    except UserError as error:
        print(f"peftbench: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("peftbench: interrupted; finished trials are kept, the same command goes on", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of a pipe has gone: nothing to tell, and nobody to tell it to
        for stream in (sys.stdout, sys.stderr):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        return FAILED if arguments.command is _run else 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of every command and option."""
    top = argparse.ArgumentParser(
        prog="peftbench", description="Compare fine-tuning methods on one base model, with numbers that are true."
    )
    top.add_argument("--version", action="version", version=f"peftbench {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    _add_run(commands)
    _add_plan(commands)
    _add_report(commands)
    _add_compare(commands)
    _add_list(commands)
    return top


def _add_suite(command: argparse.ArgumentParser) -> None:
    command.add_argument("suite", metavar="SUITE", help="a YAML file, or the name of a suite that ships with peftbench")
    command.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a setting: train.steps=20"
    )
    command.add_argument(
        "--only", action="append", default=[], metavar="FIELD=VALUES", help="keep some trials: method=lora,full"
    )
    command.add_argument(
        "--seeds",
        metavar="N|LIST",
        help="how many (3 for 0, 1, 2; 100 for a hundred of them), or which, with a comma (0,5, or 100, for 100 alone)",
    )
    what = "each cell in two steps on the built-in base; touches no other base or data"
    command.add_argument("--smoke", action="store_true", help=what)


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("run", help="run a suite; the same command again goes on where it left off")
    _add_suite(command)
    command.add_argument("-o", "--results", metavar="FOLDER", help="results folder (default: results/SUITE)")
    command.add_argument("--fresh", action="store_true", help="run finished trials again and replace their rows")
    command.add_argument("--keep-adapters", action="store_true", help="keep each tuned adapter, with a card")
    command.add_argument(
        "--budget",
        metavar="SIZE",
        help="like 16GiB, or device: skip trials predicted to need more memory",
    )
    _add_reserve(command)
    command.set_defaults(command=_run)


def _add_reserve(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--reserve",
        metavar="SIZE",
        help="of the budget, for what is no tensor: a GPU's context and libraries (default: what is known of it)",
    )


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("plan", help="print the cells of a suite, one line each, and run nothing")
    _add_suite(command)
    command.add_argument("--memory", action="store_true", help="predict each cell's memory, from the config alone")
    command.add_argument("--budget", metavar="SIZE", help="with --memory: what there is, like 16GiB, or device")
    _add_reserve(command)
    command.add_argument(
        "--fit", choices=("batch_size", "sequence_length"), help="with --budget: the largest that fits"
    )
    command.set_defaults(command=_plan)


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("report", help="make the page of a results folder, or print its table")
    command.add_argument("results", metavar="RESULTS", help="a results folder")
    command.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="file to write (default: reports/RESULTS.html for the page; a table is printed)",
    )
    command.add_argument(
        "--format",
        choices=("html", "text", "md", "csv", "tex", "ranks"),
        default="html",
        help="html makes the page (default); ranks: tables of rank against precision in Markdown",
    )
    command.set_defaults(command=_report)


def _add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "compare",
        help="print what changed between two results folders",
        description="Print what changed between two results folders. Exit code 0: scores were compared and none fell; "
        "1: a score fell, a cell has fewer seeds that end ok, or nothing could be compared.",
    )
    command.add_argument("old", metavar="OLD")
    command.add_argument("new", metavar="NEW")
    command.set_defaults(command=_compare)


def _add_list(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("list", help="list methods, tasks, precisions, suites or shapes")
    command.add_argument(
        "what",
        nargs="?",
        choices=("methods", "tasks", "precisions", "suites", "shapes"),
        help="(default: all of them); shapes: known models' configs for base: {shape: NAME}",
    )
    command.add_argument("name", nargs="?", metavar="NAME", help="after methods: one of them, or a tuner of peft")
    command.set_defaults(command=_list)


def _tell_left_out() -> None:
    """Say which methods of other packages cannot be used."""
    from peftbench.methods import METHODS

    for problem in METHODS.problems:
        print(f"peftbench: {problem}", file=sys.stderr)


def _run(arguments: argparse.Namespace) -> int:
    from peftbench import grid, progress, stages
    from peftbench.execute import device
    from peftbench.plan import size

    _tell_left_out()
    loaded, parameters = _loaded(arguments, sys.stderr)
    kind = device.resolve(loaded.device)
    folder = Path(arguments.results) if arguments.results else Path("results") / loaded.name
    if arguments.reserve and not arguments.budget:
        raise UserError(_NO_BUDGET)
    budget = size.budget(arguments.budget, kind) if arguments.budget else None
    reserve = size.reserve(arguments.reserve, budget and budget // loaded.workers)
    signal.signal(signal.SIGTERM, _interrupt)
    options = grid.Options(
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


def _loaded(arguments: argparse.Namespace, out: TextIO) -> tuple[Suite, int | None]:
    """Return the suite that a command names, with its options applied, and the parameters that its ranks meet."""
    from peftbench import suite

    options = {"overrides": arguments.set, "only": arguments.only, "seeds": arguments.seeds, "smoke": arguments.smoke}
    loaded = suite.load(arguments.suite, **options)
    if loaded.match is None or arguments.smoke:
        return loaded, None
    from peftbench.plan import match

    found = match.apply(loaded)
    print("\n".join(found.lines()), file=out)
    return found.suite, found.budget


def _run_stage(stage: Stage, workers: int, command: str, options: Options) -> bool:
    """Run one stage of a suite and tell how it ended; return whether it is a failure."""
    from peftbench import grid, progress

    prepared = grid.prepare(
        stage.trials,
        stage.folder,
        workers,
        command,
        stage.whole,
        replace(options, keep_adapters=options.keep_adapters and not stage.searches),
    )
    ready = len(prepared.jobs) - len(prepared.pending)
    what = "search for learning rates: " if stage.searches else ""
    for note in stage.notes:
        print(f"note: {note}", file=sys.stderr)
    print(f"{what}{_extent(stage.trials)}, {ready} of them done already -> {stage.folder}", file=sys.stderr)
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
        print(sentence, file=sys.stderr)
    failed = [result for result in outcome.failed if result.row.status != "skipped"]  # those were asked for
    if failed:
        print("these did not end ok:", file=sys.stderr)
        for result in failed:
            print(progress.wrapped(f"  {progress.sentence(result)}"), file=sys.stderr)
    if set(outcome.statuses) == {"unsupported"}:
        print(_NOTHING, file=sys.stderr)
        return True
    # a budget asks for skipping, and a search goes to where training fails
    asked = ("ok", "unsupported", "skipped", *(("oom", "diverged", "inert") if stage.searches else ()))
    bad = sum(count for status, count in outcome.statuses.items() if status not in asked)
    return bad > 0


def _command(arguments: argparse.Namespace, options: Sequence[str]) -> str:
    """Return the command as it is told in reports: with these options, absolute paths cut to their last part."""
    from peftbench import identity

    words = ["peftbench", "run", arguments.suite, *(["--smoke"] if arguments.smoke else [])]
    for name in options:
        words += [word for value in getattr(arguments, name) for word in (f"--{name}", value)]
    if arguments.seeds:
        words += ["--seeds", arguments.seeds]
    return " ".join(shlex.quote(identity.without_paths(word)) for word in words)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _plan(arguments: argparse.Namespace) -> int:
    from peftbench import columns, grid, suite
    from peftbench.execute import device
    from peftbench.suite import candidates, smoke

    _tell_left_out()
    loaded, _ = _loaded(arguments, sys.stdout)
    kind = device.resolve(loaded.device, present=False)
    small = smoke.smoke(loaded, kind) if arguments.smoke else None
    trials = small.trials if small else suite.expand(loaded, kind)
    if not arguments.memory and (arguments.budget or arguments.reserve or arguments.fit):
        raise UserError("--budget, --reserve and --fit are about memory: they need --memory")
    if arguments.memory:
        return _forecast(arguments, trials)
    cells: dict[str, list[int | None]] = {}
    for trial in trials:
        cells.setdefault(trial.cell, []).append(trial.seed)
    reasons = grid.impossible(trials)
    rows = []
    for cell, seeds in cells.items():
        named = "no seed" if seeds == [None] else f"seed{'s' * (len(seeds) > 1)} {_listed(seeds)}"
        rows.append([cell, named, f"unsupported: {reasons[cell]}" if cell in reasons else ""])
    print(columns.aligned(rows), end="")
    tried = () if small else candidates.candidates(loaded, kind)
    for line in small.notes if small else ():
        print(f"note: {line}")
    if tried:
        print(f"before them a search chooses learning rates on the validation split: {_extent(tried)}")
    try:
        notes = grid.check(trials)
    except UserError as error:
        print(_extent(trials))
        raise UserError(f"run would refuse this: {error}") from None
    possible = sum(trial.cell not in reasons for trial in trials)
    print(f"{_extent(trials)}, {possible:,} of them can run" if possible else f"{_extent(trials)}: {_NOTHING}")
    for note in (*notes, *_no_device(trials)):
        print(f"note: {note}")
    return 0 if possible else FAILED


def _no_device(trials: Sequence[Trial]) -> list[str]:
    """Return a note where a run would refuse the device."""
    from peftbench.execute import device

    missing = device.why_no_cuda() if trials[0].device == "cuda" else None
    return [f"device cuda: run would refuse this here, as {missing}"] if missing else []


def _forecast(arguments: argparse.Namespace, trials: Sequence[Trial]) -> int:
    """Print what each cell is predicted to take."""
    from peftbench import identity
    from peftbench.plan import size

    if arguments.reserve and not arguments.budget:
        raise UserError(_NO_BUDGET)
    if arguments.fit and not arguments.budget:
        raise UserError("--fit: what fits depends on the memory there is; give it with --budget, like 16GiB")
    budget = size.budget(arguments.budget, trials[0].device) if arguments.budget else None
    reserve = size.reserve(arguments.reserve, budget)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # says at import which kernels it lacks
    from peftbench.plan import forecast, tell

    asked = forecast.Question(budget, reserve, arguments.fit)
    try:
        found = list(forecast.forecasts(trials, lambda trial: identity.config_folder(trial.base), asked))
    except UserError as error:
        raise UserError(f"{arguments.suite}: {error}") from None
    print("\n".join([*tell.lines(found, asked), *(f"note: {note}" for note in _no_device(trials))]))
    return 0


def _extent(trials: Sequence[Trial]) -> str:
    """Return how many cells, seeds and trials there are; how many seeds, and which, is what ``--seeds`` decides."""
    seeds = sorted({trial.seed for trial in trials if trial.seed is not None})
    cells = len({trial.cell for trial in trials})
    named = f"{len(seeds):,} seed{'s' * (len(seeds) != 1)} ({_listed(seeds)})" if seeds else "no seed"
    return f"{cells:,} cell{'s' * (cells != 1)}, {named}: {len(trials):,} trial{'s' * (len(trials) != 1)}"


def _listed(seeds: Sequence[int | None]) -> str:
    named = [str(seed) for seed in seeds]
    return ", ".join(named if len(named) <= 10 else [*named[:3], "...", named[-1]])


def _report(arguments: argparse.Namespace) -> int:
    from peftbench import progress, report, store

    folder = Path(arguments.results)
    recorded = store.recorded_grid(folder)
    strict = recorded is not None and recorded.strict
    page = arguments.format == "html"
    if not page and not arguments.output:
        print(report.table(folder, arguments.format), end="")
        return FAILED if strict and progress.differences(folder, strict) else 0
    output = Path(arguments.output) if arguments.output else Path("reports") / f"{folder.resolve().name}.html"
    written, table = report.publish(folder, output, arguments.format)
    print(f"{table}page: {written}" if page else f"table: {written}")
    return FAILED if strict and progress.differences(folder, strict) else 0


def _compare(arguments: argparse.Namespace) -> int:
    from peftbench import compare

    found = compare.compare(Path(arguments.old), Path(arguments.new))
    print(compare.render(found), end="")
    return 0 if found.verdict else FAILED


def _list(arguments: argparse.Namespace) -> int:
    from peftbench import catalogue

    _tell_left_out()
    if arguments.name:
        if arguments.what != "methods":
            raise UserError(f"list {arguments.what} {arguments.name}: only methods are listed one by one")
        print(catalogue.method(arguments.name), end="")
        return 0
    kinds = (arguments.what,) if arguments.what else catalogue.KINDS
    print("\n".join(catalogue.text(kind) for kind in kinds), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
