"""What a run ends with: the table, the answer and the next command; and what it prints after every first seed."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from peftbench.errors import UserError
from peftbench.results.remote_names import name_of


def show(folder: Path, unfinished: bool, out: TextIO | None = None) -> None:
    """Print the table of a results folder, which method to take, and the next command.

    Args:
        folder: the results folder.
        unfinished: whether trials would run if the run were repeated.
        out: where to print; standard output if None.
    """
    out = out or sys.stdout
    for part in _parts(folder, unfinished):
        print(part, file=out)


def so_far(folder: Path, workers: int) -> str:
    """Return what is known once every cell has its first seed: the table, or how to print it.

    The table is made between two trials. If several run at the same time, making it would disturb them.

    Args:
        folder: the results folder.
        workers: trials at the same time.
    """
    from peftbench.report.guarded import guarded

    command = f"peftbench report {shlex.quote(name_of(folder))} --format brief"
    if workers > 1:
        return f"every cell has its first seed; for the table so far: {command}"
    table = guarded("the table so far", lambda: _table(folder), "{}\n".format)  # a fault in it ends no run
    return f"every cell has its first seed; the table so far:\n\n{table}"


def after_interrupt(folder: Path) -> str:
    """Return how to print the table of what is finished, after Ctrl-C; empty if nothing is."""
    if not any((folder / "trials").glob("*.parquet")):
        return ""
    return f"peftbench: the table of what is finished: peftbench report {shlex.quote(name_of(folder))} --format brief\n"


def _parts(folder: Path, unfinished: bool) -> Iterator[str]:
    """Yield the parts of the ending."""
    from peftbench.report import answer, collect
    from peftbench.report.tables import brief

    try:
        results = collect.collect(folder)
    except UserError as error:
        yield f"\nno table: {error}"
        return
    yield f"\n{brief.text(results)}"
    answered = "\n".join(answer.guarded_lines(results))
    if answered:
        yield f"{answered}\n"
    if unfinished:
        yield "next: the same command again runs what is not finished"
    yield f"next: peftbench report {shlex.quote(name_of(folder))}  (the page; --notes prints all notes)"


def _table(folder: Path) -> str:
    from peftbench import report

    try:
        return report.table(folder, "brief")
    except UserError as error:
        return f"no table: {error}\n"
