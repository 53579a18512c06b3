"""The options of ``peftbench report`` for tables of the literature. Nothing heavy is imported before they are used."""

from __future__ import annotations

import argparse
from typing import Any


def add_to_report(command: argparse.ArgumentParser) -> None:
    """Add the options to the parser of ``report``."""
    table: Any = command.add_argument(
        "--table",
        metavar="LAYOUT",
        help="lay the results out as a table of the literature: lora-t2, metamath-gsm8k, ... (`list published` has "
        "all), or a YAML file like theirs; formats md (default), tex, csv, html",
    )
    table.completer = layout_names
    command.add_argument(
        "--published",
        action="store_true",
        help="with --table: the published numbers beside the measured ones, each with a badge: same protocol, differs "
        "in what, or unknown",
    )


def are_given(arguments: argparse.Namespace) -> bool:
    """Return whether a table of the literature is asked for."""
    return bool(arguments.table is not None or arguments.published)


def layout_names(**_: Any) -> list[str]:
    """Return the names of layouts, for a shell's completion."""
    from peftbench.report.published import load

    return list(load.layouts())
