"""The columns of ``trials`` with the parts of a trial's name and of its message, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from peftbench.records.columns.group import ColumnGroup


@dataclass(frozen=True, kw_only=True)
class ReasonColumns(ColumnGroup):
    """What is also part of ``cell`` or ``message``, so that it need not be parsed from text."""

    named_settings: Annotated[
        str | None, "the cell's name without method, rank and precision; empty if it has nothing else"
    ] = None
    candidate_of: Annotated[str | None, "cell whose learning-rate search this trial is a candidate of"] = None
    reason: Annotated[
        str | None, "why a trial is not ok: its message without the name of an unsupported cell and without the log"
    ] = None
    log_file: Annotated[str | None, "log of a trial with an error, relative to the results folder"] = None
    stack: Annotated[
        str | None,
        "where the process was when it reached a time limit or crashed in C code: up to 40 lines of file, line and "
        "function, the innermost first; null for other trials",
    ] = None
