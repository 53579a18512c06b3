"""The options of ``peftbench history`` and ``peftbench import``. Nothing heavy is imported before they are used."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from peftbench.commands import command_line


def add(commands: Any) -> None:
    """Add the commands to the parser's."""
    command = commands.add_parser(
        "history",
        help="find what changed over many nightly runs, and when",
        description="Find what changed over many nightly runs of a suite, for each cell and quantity, and what else "
        "changed at the same run. Exit code 0: no change for the worse is in force; 1: one is; 3: nothing could be "
        "judged.",
        examples=(
            "peftbench history nights --format md --last 7",
            "peftbench history results/monday results/tuesday --format html -o history.html",
        ),
    )
    nights = command.add_argument(
        "nights",
        nargs="+",
        metavar="RUNS",
        help="results folders, or a folder of them whose names begin with dates; URLs too",
    )
    nights.completer = command_line.folders
    command.add_argument(
        "--format",
        choices=("text", "md", "json", "html"),
        default="text",
        help="text (default); md: for a pull request or step summary; json: everything; html: a page",
    )
    command.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        help="file to write (default: reports/RUNS-history.html; others are printed)",
    )
    command.add_argument(
        "--last",
        metavar="N",
        help="exit with 1 only for changes that began in the newest N runs (default: in any)",
    )
    command.set_defaults(command=_history, parser=command)
    _add_import(commands)


def _add_import(commands: Any) -> None:
    command = commands.add_parser(
        "import",
        help="turn the results of another benchmark into results folders",
        description="Turn the results of another benchmark into results folders, one for each run, which compare and "
        "history read. A number that has no column of the same meaning is left out.",
        examples=(
            "peftbench import hf-method-comparison june_2026 july_2026 -o nights/peer",
            "peftbench import lm-eval lm_eval_output -o nights/lm_eval",
        ),
    )
    command.add_argument(
        "source",
        metavar="SOURCE",
        help="hf-method-comparison: huggingface/peft's MetaMathQA results; lm-eval: what lm-eval's --output_path has, "
        "with --log_samples its examples too",
    )
    what = "result files, folders of them (one run each), or tables of them"
    command.add_argument("files", nargs="+", metavar="FILES", help=what)
    command.add_argument(
        "-o", "--output", required=True, metavar="FOLDER", help="folder to write the results folders into"
    )
    command.set_defaults(command=_import, parser=command)


def _history(arguments: argparse.Namespace) -> int:
    from peftbench.commands import history

    shown = history.Shown(arguments.format, Path(arguments.output) if arguments.output else None)
    nights = [place for given in arguments.nights for place in history.places(given)]
    return history.history(nights, shown, arguments.last)


def _import(arguments: argparse.Namespace) -> int:
    from peftbench.commands import importing
    from peftbench.errors import UserError
    from peftbench.results import remote, remote_names

    urls = [given for given in (*arguments.files, arguments.output) if remote.is_url(given)]
    if urls:
        shown = remote_names.without_secrets(urls[0])
        raise UserError(f"import {shown}: files and -o are on this machine; copy the written folders to a URL after it")
    files = [Path(given) for given in arguments.files]
    return importing.import_results(arguments.source, files, Path(arguments.output))
