"""``peftbench answer``: which cell of a results folder to take, and what it costs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.errors import UserError
from peftbench.records import durations

if TYPE_CHECKING:
    from peftbench.results.answer.decision import Question


@dataclass(frozen=True)
class Asked:
    """The options of the command; None where none is given."""

    within: str | float | None = None
    """The tolerated loss in points of the score; 2 if None."""
    budget: str | None = None
    """Training memory, like ``16GiB``, or ``device``."""
    time: str | float | None = None
    """Training time, like ``2h``, or seconds."""
    task: str | None = None
    """A task; the mean over tasks if None."""


def command(folder: Path, asked: Asked, as_json: bool) -> int:
    """Print the answer of a results folder and return the exit code, which is 0 for every answer.

    Args:
        folder: a results folder.
        asked: the options.
        as_json: whether to print a record for programs.

    Raises:
        UserError: if an option is wrong, or the folder holds no results.
    """
    from peftbench.report import answer as report
    from peftbench.report.collect import collect

    wanted = question(folder, asked)
    results = collect(folder)
    if as_json:
        print(json.dumps(report.record(results, wanted), indent=2))
    else:
        print(report.text(results, wanted), end="")
    return 0


def question(folder: Path, asked: Asked) -> Question:
    """Return the question that options ask.

    Raises:
        UserError: if an option is wrong.
    """
    from peftbench.results.answer.decision import WITHIN, Question

    points = WITHIN if asked.within is None else _points(asked.within)
    size = None if asked.budget is None else _budget(folder, asked.budget)
    time = None if asked.time is None else durations.read(asked.time, "--time")
    return Question(points, size, time, asked.task)


def _points(given: str | float) -> float:
    try:
        found = float(given)
    except (TypeError, ValueError):
        found = 0.0
    if not 0 < found <= 100:
        raise UserError(f"--within: given {given!r}; allowed: a loss above 0 and up to 100 points of the score, like 2")
    return found


def _budget(folder: Path, text: str) -> int:
    """Return a memory budget in bytes; ``device`` is the memory of a device of the results' kind, on this machine."""
    from peftbench.planner import memory_sizes
    from peftbench.results import store

    kind = "cpu"
    if text == memory_sizes.DEVICE:
        kinds = store.read_trials(folder)["device"].dropna().unique().tolist()
        kind = str(kinds[0]) if kinds else kind
    return memory_sizes.budget(text, kind)
