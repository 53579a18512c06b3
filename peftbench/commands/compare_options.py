"""The options of ``peftbench compare``. Nothing heavy is imported before they are used."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from peftbench.commands import command_line


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    command = commands.add_parser(
        "compare",
        help="judge what regressed between two results folders",
        description="Judge memory, speed, sizes, scores, statuses, retention, inference cost and merge error between "
        "two results folders: regressed, improved, unchanged or cannot tell. Exit code 0: something was judged and "
        "nothing regressed; 1: something regressed; 3: nothing could be judged; 2: bad input.",
        examples=(
            "peftbench compare results/monday results/tuesday --watch judge=score,memory --watch score_points=1",
            "peftbench compare results/reference/quickstart results/quickstart --format md",
        ),
    )
    for name, which in (("old", "to compare with"), ("new", "to judge")):
        folder = command.add_argument(name, metavar=name.upper(), help=f"the results folder or URL {which}")
        folder.completer = command_line.folders
    command.add_argument(
        "--watch",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key of the suite's watch: judge=score,memory, speed_percent=10",
    )
    command.add_argument(
        "--format",
        choices=("text", "md", "json", "html"),
        default="text",
        help="text: for a terminal; md: for a step summary or a pull request; json: raw values; html: a page",
    )
    command.add_argument("-o", "--output", metavar="FILE", help="file to write (default: it is printed)")
    command.set_defaults(command=_compare, parser=command)


def _compare(arguments: argparse.Namespace) -> int:
    from peftbench.results import folder

    old, new = (folder.located(given) for given in (arguments.old, arguments.new))
    from peftbench.commands import compare
    from peftbench.suite.watch import read_option

    output = Path(arguments.output) if arguments.output else None
    return compare.command(old, new, read_option(arguments.watch), arguments.format, output)
