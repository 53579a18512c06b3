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
        help="list methods, tasks, precisions, optimizers, suites and model shapes; how a base model is built",
        examples=("peftbench list methods lora", "peftbench list base nano"),
    )
    command.add_argument(
        "what",
        nargs="?",
        choices=("methods", "tasks", "precisions", "optimizers", "suites", "shapes", "base", "published"),
        help="what to list (default: everything but base and published); shapes are configs of known models, for base: "
        "{shape: NAME}; base: how one base model is built; published: tables of the literature, for report --table",
    )
    name = command.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help="with methods: details of one, or of a peft tuner; with optimizers: details of one; with base: a folder, "
        "a hub id or a shape; with published: a table or a layout",
    )
    name.completer = command_line.method_names
    command.add_argument("--json", action="store_true", help="with base: print JSON; unknown is null")
    command.set_defaults(command=_list, parser=command)


def _list(arguments: argparse.Namespace) -> int:
    if arguments.what == "base":
        from peftbench.commands import base_anatomy

        return base_anatomy.command(arguments.name, arguments.json)
    if arguments.json:
        raise UserError("--json: allowed with `list base` only")
    if arguments.what == "published":
        from peftbench.commands import published_tables

        print(published_tables.details(arguments.name) if arguments.name else published_tables.listing(), end="")
        return 0
    from peftbench.commands import listing, selection

    selection.warn_of_unusable_methods()
    if arguments.name:
        one = {"methods": listing.method, "optimizers": listing.optimizer}.get(arguments.what)
        if one is None:
            raise UserError(
                "only `list methods`, `list optimizers`, `list base` and `list published` accept a name; given: list "
                f"{arguments.what} {arguments.name}"
            )
        print(one(arguments.name), end="")
        return 0
    kinds = (arguments.what,) if arguments.what else listing.KINDS
    print("\n".join(listing.text(kind) for kind in kinds), end="")
    return 0
