"""The command line: options are translated into a call of a command. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench import interrupts
from peftbench.commands import (
    BAD_INPUT,
    FAILED,
    backstop,
    command_line,
    compare_options,
    executor_options,
    export_options,
    history_options,
    init_options,
    list_options,
    published_options,
    streams,
)
from peftbench.errors import UserError, shows_traceback
from peftbench.version import __version__

if TYPE_CHECKING:
    from peftbench.suite import Suite

    Commands = argparse._SubParsersAction[command_line.Parser]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. No exception leaves it, unless ``PEFTBENCH_TRACEBACK`` asks for that."""
    with interrupts.handled(restores=argv is not None):
        try:
            return _guarded(argv)
        except KeyboardInterrupt as stop:
            text, code = interrupts.message(stop)
            print(f"peftbench: {text}", file=sys.stderr)
            return code


def _guarded(argv: Sequence[str] | None) -> int:
    """Run a command and return its exit code; a signal leaves it."""
    streams.prepare()
    try:
        known = parser()
        command_line.complete(known)
        if not (sys.argv[1:] if argv is None else argv):
            known.print_help(sys.stderr)
            return BAD_INPUT
        return _checked(known.parse_args(argv))
    except BrokenPipeError:  # the reader has gone, also for messages
        streams.silence()
        return FAILED
    except OSError as error:  # a message could not be written, because the disk is full
        if shows_traceback():
            raise
        streams.silence()
        return backstop.message(error)[1]


def _checked(arguments: argparse.Namespace) -> int:
    """Run a command; print a message for every exception."""
    try:
        _check_folder()
        # the progress of a run controls the terminal itself
        with contextlib.nullcontext() if arguments.command is _run else streams.printable():
            code: int = arguments.command(arguments)
        sys.stdout.flush()  # a closed pipe is noticed here, not when the interpreter exits
        return code
    except UserError as error:
        streams.tell(str(error))
        return BAD_INPUT
    except BrokenPipeError:  # the pipe's reader has exited, as in `peftbench list | head`
        streams.silence()
        return FAILED if arguments.command is _run else 0
    except Exception as error:
        if shows_traceback():
            raise
        text, code = backstop.message(error)
        streams.tell(text)
        streams.silence()
        return code


def _check_folder() -> None:
    """Refuse a current folder that has been deleted, which libraries fail on in many ways."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(f"the current folder cannot be used ({error.strerror}): change to another one") from None


def parser() -> command_line.Parser:
    """Return the parser of every command and option."""
    top = command_line.Parser(
        prog="peftbench",
        description="Compare fine-tuning methods on one base model, with numbers that can be traced.",
        examples=("peftbench run quickstart", "peftbench plan fits_in_16gb --memory --budget 16GiB"),
    )
    top.add_argument("--version", action="version", version=f"peftbench {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    init_options.add(commands)
    _add_run(commands)
    _add_plan(commands)
    _add_answer(commands)
    _add_report(commands)
    compare_options.add(commands)
    history_options.add(commands)
    export_options.add(commands)
    list_options.add(commands)
    return top


def _completed(action: argparse.Action, by: Callable[..., list[str]]) -> None:
    """Let a shell complete an argument's value by a function."""
    action.completer = by  # type: ignore[attr-defined]


def _add_suite(command: argparse.ArgumentParser) -> None:
    suite = command.add_argument(
        "suite", metavar="SUITE", help="a YAML file, or the name of a suite that ships with peftbench"
    )
    _completed(suite, command_line.suite_names)
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting: train.steps=20, methods.lora.rank=4",
    )
    only = command.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="FIELD=VALUES",
        help="only some trials, by method, precision, rank, seed or cell: method=lora,full or cell='lora r=8 fp32'",
    )
    _completed(only, command_line.selections)
    command.add_argument(
        "--seeds",
        metavar="N|LIST",
        help="a number of seeds (3 for 0, 1, 2; 100 for a hundred of them), or a list, which has a comma (0,5, or 100, "
        "for 100 alone)",
    )
    what = "run every cell for two steps on `nano` and built-in data, instead of the suite's base model and data"
    command.add_argument("--smoke", action="store_true", help=what)


def _add_run(commands: Commands) -> None:
    command = commands.add_parser(
        "run",
        help="run a suite; the same command again continues where it stopped",
        examples=(
            "peftbench run quickstart",
            "peftbench run quickstart --only method=lora,base --seeds 1 --set train.steps=20 -o results/short",
        ),
    )
    _add_suite(command)
    results = command.add_argument(
        "-o",
        "--results",
        metavar="FOLDER|URL",
        help="results folder, or a URL like s3://bucket/folder (default: results/SUITE); {date} is today",
    )
    _completed(results, command_line.folders)
    command.add_argument("--fresh", action="store_true", help="run finished trials again and replace their rows")
    command.add_argument("--keep-adapters", action="store_true", help="save each tuned adapter with a model card")
    command.add_argument(
        "--budget",
        metavar="SIZE",
        help="memory limit, like 16GiB, or device for this device's: skip trials predicted to need more",
    )
    _add_reserve(command)
    executor_options.add(command)
    command.set_defaults(command=_run, parser=command)


def _add_reserve(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--reserve",
        metavar="SIZE",
        help="part of the budget for non-tensor memory: a GPU's context and libraries (default: an estimate)",
    )


def _add_plan(commands: Commands) -> None:
    command = commands.add_parser(
        "plan",
        help="print the cells of a suite, one per line, without running them",
        examples=("peftbench plan quickstart", "peftbench plan fits_in_16gb --memory --budget 16GiB --fit batch_size"),
    )
    _add_suite(command)
    command.add_argument("--memory", action="store_true", help="predict each cell's memory from the model's config")
    command.add_argument("--budget", metavar="SIZE", help="with --memory: memory limit, like 16GiB, or device")
    _add_reserve(command)
    command.add_argument(
        "--fit", choices=("batch_size", "sequence_length"), help="with --budget: find the largest that fits"
    )
    command.add_argument("--time", action="store_true", help="run a few steps of each cell and predict the grid's time")
    command.add_argument("--json", action="store_true", help="print JSON; every number has its unit in its name")
    command.set_defaults(command=_plan, parser=command)


def _add_answer(commands: Commands) -> None:
    command = commands.add_parser(
        "answer",
        help="print which method to take: the cheapest one near the best",
        description="Print which cell of a results folder to take: the cheapest one that is known to lie near the "
        "best, for new seeds and new examples; or why that cannot be told, and what would decide it.",
        examples=(
            "peftbench answer results/quickstart",
            "peftbench answer results/quickstart --within 5 --budget 32MiB --json",
        ),
    )
    _completed(
        command.add_argument("results", metavar="RESULTS", help="a results folder or its URL"), command_line.folders
    )
    command.add_argument(
        "--within", metavar="POINTS", help="loss of score against the best cell that is tolerated (default: 2)"
    )
    command.add_argument("--budget", metavar="SIZE", help="training memory, like 16GiB, or device for this device's")
    command.add_argument("--time", metavar="TIME", help="training time, like 90s, 30min or 1h30m")
    command.add_argument("--task", metavar="NAME", help="score of one task (default: mean over tasks)")
    command.add_argument("--json", action="store_true", help="print JSON; every number has its unit in its name")
    command.set_defaults(command=_answer, parser=command)


def _add_report(commands: Commands) -> None:
    command = commands.add_parser(
        "report",
        help="write the page of one or several results folders, or print their tables",
        examples=(
            "peftbench report results/quickstart",
            "peftbench report results/quickstart --format csv --columns cell,score,memory --sort memory",
        ),
    )
    results = command.add_argument(
        "results",
        nargs="+",
        metavar="RESULTS",
        help="a results folder or its URL; several have an answer and a table each, and it says which may be compared",
    )
    _completed(results, command_line.folders)
    command.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="file to write (default: reports/RESULTS.html for the page, A+B.html of several; a table is printed)",
    )
    command.add_argument(
        "--format",
        choices=("html", "text", "brief", "md", "csv", "tex", "ranks", "deployed"),
        help="html: the page (default); text, md, csv, tex: the main table; brief: a short one, 100 columns wide at "
        "most; ranks: tables of rank by precision in Markdown; deployed: the score after deployment as csv",
    )
    command.add_argument(
        "--columns",
        metavar="NAMES",
        help="columns of the table: cell,score,forgetting,memory; with html of the table that is printed",
    )
    command.add_argument(
        "--sort", metavar="COLUMN", help="sort the rows, the best first: the highest scores and rates, the lowest costs"
    )
    command.add_argument("--notes", action="store_true", help="print all notes under the table, not only three lines")
    published_options.add_to_report(command)
    command.add_argument(
        "--figures", metavar="DIR", help="write the figures for print into DIR, as PDF and PNG, in place of the page"
    )
    command.set_defaults(command=_report, parser=command)


def _load(arguments: argparse.Namespace) -> Suite:
    """Return the suite that a command names, with its options applied."""
    from peftbench import suite
    from peftbench.commands import selection

    selection.warn_of_unusable_methods()
    return suite.load(
        arguments.suite,
        overrides=arguments.set,
        only=arguments.only,
        seeds=arguments.seeds,
        smoke=arguments.smoke,
    )


def _run(arguments: argparse.Namespace) -> int:
    from peftbench.commands import dated_folder, run

    how = run.RunOptions(
        results=dated_folder.results_folder(arguments.results),
        fresh=arguments.fresh,
        keep_adapters=arguments.keep_adapters,
        budget=arguments.budget,
        reserve=arguments.reserve,
        executor=arguments.executor,
        address=arguments.address,
    )
    return run.command(_load(arguments), how)


def _plan(arguments: argparse.Namespace) -> int:
    from peftbench.commands import plan

    how = plan.PlanOptions(
        arguments.memory, arguments.budget, arguments.reserve, arguments.fit, arguments.time, arguments.json
    )
    return plan.plan(_load(arguments), how)


def _report(arguments: argparse.Namespace) -> int:
    from peftbench.results import folder

    places = [folder.located(given) for given in arguments.results]  # before anything heavy is imported
    from peftbench.commands import results

    output = Path(arguments.output) if arguments.output else None
    how = results.TableOptions(arguments.columns, arguments.sort, arguments.notes)
    if arguments.figures is not None:
        return results.figures(places, Path(arguments.figures), vars(arguments))
    if published_options.are_given(arguments):
        from peftbench.commands import published_tables

        asked = published_tables.Asked(arguments.table, arguments.published, arguments.format)
        return published_tables.command(places, output, asked, how)
    format = arguments.format or "html"
    if len(places) > 1:
        return results.report_several(places, output, format, how)
    return results.report(places[0], output, format, how)


def _answer(arguments: argparse.Namespace) -> int:
    from peftbench.results import folder

    place = folder.located(arguments.results)
    from peftbench.commands import answer

    asked = answer.Asked(arguments.within, arguments.budget, arguments.time, arguments.task)
    return answer.command(place, asked, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
