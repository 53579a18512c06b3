"""The command line: options are translated into a call of a command. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.commands import BAD_INPUT, FAILED, INTERRUPTED, backstop, streams
from peftbench.errors import UserError, shows_traceback
from peftbench.version import __version__

if TYPE_CHECKING:
    from peftbench.suite import Suite


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. No exception leaves it, unless ``PEFTBENCH_TRACEBACK`` asks for that."""
    streams.prepare()
    try:
        return _checked(parser().parse_args(argv))
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
        code: int = arguments.command(arguments)
        sys.stdout.flush()  # a closed pipe is noticed here, not when the interpreter exits
        return code
    except UserError as error:
        print(f"peftbench: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("peftbench: interrupted; finished trials are kept, the same command continues", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the pipe's reader has exited, as in `peftbench list | head`
        streams.silence()
        return FAILED if arguments.command is _run else 0
    except Exception as error:
        if shows_traceback():
            raise
        text, code = backstop.message(error)
        print(f"peftbench: {text}", file=sys.stderr)
        streams.silence()
        return code


def _check_folder() -> None:
    """Refuse a current folder that has been deleted, which libraries fail on in many ways."""
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(f"the current folder cannot be used ({error.strerror}): change to another one") from None


def parser() -> argparse.ArgumentParser:
    """Return the parser of every command and option."""
    top = argparse.ArgumentParser(
        prog="peftbench", description="Compare fine-tuning methods on one base model, with numbers that can be traced."
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
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting: train.steps=20",
    )
    command.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="FIELD=VALUES",
        help="run only some trials: method=lora,full",
    )
    command.add_argument(
        "--seeds",
        metavar="N|LIST",
        help="a number of seeds (3 for 0, 1, 2; 100 for a hundred of them), or a list, which has a comma (0,5, or 100, "
        "for 100 alone)",
    )
    what = "run every cell for two steps on `nano` and built-in data, instead of the suite's base model and data"
    command.add_argument("--smoke", action="store_true", help=what)


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("run", help="run a suite; the same command again continues where it stopped")
    _add_suite(command)
    command.add_argument("-o", "--results", metavar="FOLDER", help="results folder (default: results/SUITE)")
    command.add_argument("--fresh", action="store_true", help="run finished trials again and replace their rows")
    command.add_argument("--keep-adapters", action="store_true", help="save each tuned adapter with a model card")
    command.add_argument(
        "--budget",
        metavar="SIZE",
        help="memory limit, like 16GiB, or device for this device's: skip trials predicted to need more",
    )
    _add_reserve(command)
    command.set_defaults(command=_run)


def _add_reserve(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--reserve",
        metavar="SIZE",
        help="part of the budget for non-tensor memory: a GPU's context and libraries (default: an estimate)",
    )


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("plan", help="print the cells of a suite, one per line, without running them")
    _add_suite(command)
    command.add_argument("--memory", action="store_true", help="predict each cell's memory from the model's config")
    command.add_argument("--budget", metavar="SIZE", help="with --memory: memory limit, like 16GiB, or device")
    _add_reserve(command)
    command.add_argument(
        "--fit", choices=("batch_size", "sequence_length"), help="with --budget: find the largest that fits"
    )
    command.add_argument("--json", action="store_true", help="print JSON; every number has its unit in its name")
    command.set_defaults(command=_plan)


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("report", help="write the page of a results folder, or print its table")
    command.add_argument("results", metavar="RESULTS", help="a results folder")
    command.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="file to write (default: reports/RESULTS.html for the page; a table is printed)",
    )
    command.add_argument(
        "--format",
        choices=("html", "text", "brief", "md", "csv", "tex", "ranks"),
        default="html",
        help="html: the page (default); text, md, csv, tex: the main table; brief: a short one, 100 columns wide at "
        "most; ranks: tables of rank by precision in Markdown",
    )
    command.set_defaults(command=_report)


def _add_compare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser(
        "compare",
        help="print what changed between two results folders",
        description="Print what changed between two results folders. Exit code 0: scores were compared and none fell; "
        "1: a score fell, fewer seeds of a cell ended ok, or nothing could be compared.",
    )
    command.add_argument("old", metavar="OLD")
    command.add_argument("new", metavar="NEW")
    command.set_defaults(command=_compare)


def _add_list(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    command = commands.add_parser("list", help="list methods, tasks, precisions, suites and model shapes")
    command.add_argument(
        "what",
        nargs="?",
        choices=("methods", "tasks", "precisions", "suites", "shapes"),
        help="what to list (default: everything); shapes are configs of known models, for base: {shape: NAME}",
    )
    command.add_argument("name", nargs="?", metavar="NAME", help="with methods: details of one, or of a peft tuner")
    command.set_defaults(command=_list)


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
    from peftbench.commands import run

    how = run.RunOptions(
        results=Path(arguments.results) if arguments.results else None,
        fresh=arguments.fresh,
        keep_adapters=arguments.keep_adapters,
        budget=arguments.budget,
        reserve=arguments.reserve,
    )
    return run.command(_load(arguments), how)


def _plan(arguments: argparse.Namespace) -> int:
    from peftbench.commands import plan

    how = plan.PlanOptions(arguments.memory, arguments.budget, arguments.reserve, arguments.fit, arguments.json)
    return plan.plan(_load(arguments), how)


def _report(arguments: argparse.Namespace) -> int:
    from peftbench.commands import results

    output = Path(arguments.output) if arguments.output else None
    return results.report(Path(arguments.results), output, arguments.format)


def _compare(arguments: argparse.Namespace) -> int:
    from peftbench.commands import results

    return results.compare(Path(arguments.old), Path(arguments.new))


def _list(arguments: argparse.Namespace) -> int:
    from peftbench.commands import listing, selection

    selection.warn_of_unusable_methods()
    if arguments.name:
        if arguments.what != "methods":
            raise UserError(f"only `list methods` accepts a name; given: list {arguments.what} {arguments.name}")
        print(listing.method(arguments.name), end="")
        return 0
    kinds = (arguments.what,) if arguments.what else listing.KINDS
    print("\n".join(listing.text(kind) for kind in kinds), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
