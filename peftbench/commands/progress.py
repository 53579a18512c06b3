"""The progress of a run: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from peftbench.commands import terminal
from peftbench.commands.expected import Expected
from peftbench.commands.rounds import Rounds
from peftbench.errors import UserError
from peftbench.records import Result
from peftbench.records.secrets import hidden
from peftbench.records.wording import printable_lines
from peftbench.runner.executor import Event


class Lines:
    """Prints a line when the trials of a seed begin, and one per finished trial."""

    def __init__(self, total: int, out: TextIO, rounds: Rounds | None = None, expected: Expected | None = None) -> None:
        self._total, self._done, self._out, self._rounds, self._expected = total, 0, out, rounds, expected

    def __call__(self, event: Event) -> None:
        """Print the result if an event ends a trial."""
        begins = self._rounds.begins(event) if self._rounds else ""
        left = self._expected.time_left() if begins and self._done and self._expected else ""
        self._print(", ".join(filter(None, (begins, left))))
        if event.result is None:
            return
        self._done += 1
        width = len(str(self._total))
        self._print(wrapped(f"[{self._done:{width}}/{self._total}] {sentence(event.result)}"))
        self._print(self._expected.news() if self._expected else "")
        self._print(self._rounds.ends(event) if self._rounds else "")

    def _print(self, text: str) -> None:
        if text:
            print(text, file=self._out, flush=True)


class Bar:
    """A live bar: finished trials, which of the seeds runs, the current cell, its phase, step and loss, time left."""

    def __init__(
        self, total: int, progress: Any, rounds: Rounds | None = None, expected: Expected | None = None
    ) -> None:
        self._progress, self._rounds, self._expected = progress, rounds, expected
        self._task = progress.add_task("", total=total, now="importing the libraries", left="")

    def __call__(self, event: Event) -> None:
        """Show an event."""
        seed = self._rounds.now(event.job) if self._rounds else ""
        place = f" · {seed}" if seed else _seed(event.job.trial.seed)
        now = f"{event.job.trial.cell}{place} · {event.phase}"
        if event.steps:
            now += f" {event.step}/{event.steps} · loss {event.loss:.3f}"
        advance = 0
        if event.result is not None:
            advance = 1
            self._print(sentence(event.result))
            self._print(self._rounds.ends(event) if self._rounds else "")
        self._progress.update(self._task, advance=advance, now=now, left=self._time_left())

    def _print(self, text: str) -> None:
        if text:
            self._progress.console.print(text, highlight=False, markup=False)

    def _time_left(self) -> str:
        if not self._expected:
            return ""
        seconds = self._expected.left()
        if seconds is None:
            return "time left: not known yet"
        return f"about {seconds / 60:.0f} min left" if seconds > 90 else f"about {seconds:.0f} s left"


@contextmanager
def shown(
    total: int, out: TextIO | None = None, rounds: Rounds | None = None, expected: Expected | None = None
) -> Iterator[Any]:
    """Yield an observer of events that shows them: as a bar on a terminal, else as lines.

    Args:
        total: trials to run.
        out: where to show them; standard error if None.
        rounds: follows the seeds; None if they are not told.
        expected: follows the time that is left; None if it is not told.
    """
    out = out or sys.stderr
    if not out.isatty():
        yield Lines(total, out, rounds, expected)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[now]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=Console(file=out)) as progress:
        yield Bar(total, progress, rounds, expected)


def sentence(result: Result) -> str:
    """Return a line about a finished trial: cell, seed, status, and its scores or why it failed."""
    row = result.row
    text = f"{row.cell}{_seed(row.seed)}: {row.status}"
    if row.wall_seconds is not None:
        text += f" in {row.wall_seconds:.1f} s"
    if result.scores:
        text += "; " + ", ".join(f"{s.task} {s.metric} {100 * s.value:.1f} %" for s in result.scores)
    if row.message:
        text += f" ({row.phase}: {row.message})"
    return text


def wrapped(text: str) -> str:
    """Return a text wrapped to a terminal's width; lines after the first are indented."""
    return "\n".join(terminal.wrapped(printable_lines(hidden(text)), terminal.SENTENCES, "    "))


def _seed(seed: int | None) -> str:
    return "" if seed is None else f", seed {seed}"


def warn_of_differences(folder: Path, strict: bool, out: TextIO | None = None) -> bool:
    """Print which settings that should be equal differ between a folder's rows.

    Args:
        folder: a results folder.
        strict: whether such differences, or rows that cannot stand in one table, are an error.
        out: where to print; standard error if None.

    Returns:
        Whether any setting differs.

    Raises:
        UserError: with ``strict``, if the rows cannot stand in one table.
    """
    from peftbench import report

    out = out or sys.stderr
    try:
        found = report.findings(folder)
    except UserError:  # the rows cannot stand in one table; the report will say so
        if strict:
            raise
        return False
    for text in found:
        print(wrapped(f"{'peftbench' if strict else 'note'}: {text}"), file=out)
    if found and strict:
        print("peftbench: the rows are not comparable, and the suite sets audit: strict", file=out)
    return bool(found)
