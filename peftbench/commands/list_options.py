"""The options of ``peftbench list``. Nothing heavy is imported before they are used."""

from __future__ import annotations

import argparse
from typing import Any

from peftbench.commands import command_line
from peftbench.errors import UserError


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    command = commands.add_parser(
        "list",
        help="list methods, tasks, precisions, suites and model shapes",
        examples=("peftbench list suites", "peftbench list methods lora"),
    )
    command.add_argument(
        "what",
        nargs="?",
        choices=("methods", "tasks", "precisions", "suites", "shapes"),
        help="what to list (default: everything); shapes are configs of known models, for base: {shape: NAME}",
    )
    name = command.add_argument(
        "name", nargs="?", metavar="NAME", help="with methods: details of one, or of a peft tuner"
    )
    name.completer = command_line.method_names
    command.set_defaults(command=_list, parser=command)


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
