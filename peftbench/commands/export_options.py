"""``peftbench export``: a results folder for other tools."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from peftbench.commands import command_line
from peftbench.report.export import TARGETS


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    command = commands.add_parser(
        "export",
        help="write a results folder for other tools: experiment trackers, CSV, a data set",
        description="Write the trials of a results folder's last grid for another tool, to a folder on this machine: "
        "nothing is sent anywhere. Exporting again writes only what is new.",
        examples=(
            "peftbench export results/quickstart --to csv",
            "peftbench export results/quickstart --to hf-dataset -o exports/quickstart",
        ),
    )
    results = command.add_argument("results", metavar="RESULTS", help="a results folder or its URL")
    results.completer = command_line.folders
    about = "; ".join(f"{name}: {target.about}" for name, target in TARGETS.items())
    command.add_argument("--to", required=True, choices=tuple(TARGETS), help=about)
    command.add_argument(
        "-o", "--output", metavar="FOLDER", help="folder to write to (default: exports/RESULTS-TARGET)"
    )
    command.set_defaults(command=_export, parser=command)


def _export(arguments: argparse.Namespace) -> int:
    from peftbench.results import folder

    place = folder.located(arguments.results)
    from peftbench.report import export

    output = Path(arguments.output or f"exports/{place.resolve().name}-{arguments.to}")
    made = export.export(place, arguments.to, output)
    kept = f" ({made.kept} were there already)" if made.kept else ""
    print(f"{made.new} {'trial' if made.new == 1 else 'trials'} written to {output}{kept}")
    if made.hint:
        print(made.hint)
    return 0
