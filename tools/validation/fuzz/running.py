"""One input at a time: how it ended, and what is a finding."""

from __future__ import annotations

import contextlib
import io
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from peftbench.errors import UserError

SLOW = 20.0
"""Longest time of one input in seconds of this process, so that other work of the machine does not count."""
HUNG = 180
"""Seconds of the clock after which an input is ended."""
LARGE = 2 * 2**30
"""Bytes by which an input may raise the largest memory of this process."""
CODES = (0, 1, 2, 3)
"""Exit codes that are documented and no mistake of peftbench."""
ENDINGS = ("accepted", "refused", "finding")


class Hung(BaseException):
    """An input took longer than ``HUNG`` seconds."""


@dataclass
class Tally:
    """How many inputs of each target ended how, and the findings: at most one for each place in the code."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    findings: dict[str, str] = field(default_factory=dict)

    @property
    def inputs(self) -> int:
        """Number of all inputs."""
        return sum(self.counts.values())

    def add(self, target: str, ending: str, place: str = "", text: str = "") -> None:
        """Count an input."""
        self.counts[target, ending] += 1
        if place:
            self.findings.setdefault(f"{target}: {place}", text)

    def update(self, other: Tally) -> None:
        """Add the inputs of another."""
        self.counts += other.counts
        self.findings = other.findings | self.findings

    def plain(self) -> dict[str, Any]:
        """Return it as JSON can store it."""
        return {"counts": [[*key, n] for key, n in sorted(self.counts.items())], "findings": self.findings}

    @classmethod
    def of_plain(cls, found: dict[str, Any]) -> Tally:
        """Return what ``plain`` gave."""
        return cls(Counter({(target, ending): n for target, ending, n in found["counts"]}), dict(found["findings"]))


@contextlib.contextmanager
def watched() -> Iterator[None]:
    """End what takes longer than ``HUNG`` seconds of the clock."""

    def end(*_: object) -> None:
        raise Hung

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(HUNG)
    try:
        # a part of a report that fails is a note there, as users have it
        with mock.patch("peftbench.report.guarded.shows_traceback", return_value=False):
            yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def command(tally: Tally, target: str, line: list[str], where: str) -> None:
    """Run one command and count how it ended."""
    from peftbench import cli

    error = io.StringIO()

    def run() -> bool:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(error):
            try:
                code: Any = cli.main(line)
            except SystemExit as end:  # argparse
                code = end.code
        if code not in CODES or (code == 2 and not error.getvalue().strip()):
            raise AssertionError(f"exit code {code}: {error.getvalue()[:200]!r}")
        return bool(code != 2)

    one(tally, target, run, f"{where}: {ascii(line)[:300]}")


def one(tally: Tally, target: str, run: Callable[[], bool], where: str) -> None:
    """Count how an input ended.

    Args:
        tally: where.
        target: what reads the input.
        run: reads it; returns whether it was accepted, raises UserError or returns False if it was refused.
        where: how the input is found again.
    """
    began, before = time.process_time(), _largest()
    try:
        with watched():
            ending = "accepted" if run() else "refused"
    except UserError as error:
        ending = "refused" if str(error).strip() else "finding"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        tally.add(target, "finding", _place(error), f"{where}\n{traceback.format_exc()[-3000:]}")
        return
    took, grown = time.process_time() - began, _largest() - before
    if took > SLOW or grown > LARGE:
        tally.add(target, "finding", "slow or large", f"{where}: {took:.1f} s of CPU time, {grown:,} bytes more")
        return
    tally.add(target, ending)


def _largest() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _place(error: BaseException) -> str:
    """Return the innermost line of ours that an exception went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/peftbench/" in frame.filename] or frames
    name = ours[-1].filename.rpartition("/peftbench/")[2] if ours else "?"
    return f"{type(error).__name__} in {name}, {ours[-1].name if ours else '?'}"
