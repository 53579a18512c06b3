"""What a run with a URL as its results folder sends there: each finished trial, as it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from peftbench.errors import UserError
from peftbench.results import remote as urls

if TYPE_CHECKING:
    from peftbench.runner.executor import Event


@dataclass
class Sender:
    """Sends a run's results. A failure ends no run: what is finished stays here and is sent with the next trial."""

    remote: urls.Remote | None
    """Where to; None if the results folder is on this machine."""
    out: TextIO
    failed: bool = False
    """Whether the last attempt failed."""
    keys: set[str] = field(default_factory=set)
    """Trials that have ended."""

    def beside(self, observe: Callable[[Event], None]) -> Callable[[Event], None]:
        """Return an observer that sends each result, then passes the event on."""
        if self.remote is None:
            return observe

        def both(event: Event) -> None:
            if event.result is not None:
                self.keys.add(event.job.key)
                self._send()
            observe(event)

        return both

    def finish(self, ended: bool) -> None:
        """Send what is left, and say where everything is, unless an error came before any trial has ended."""
        if self.remote is None:
            return
        self._send()
        if not (ended or self.keys or self.failed):
            return
        if self.failed:
            print(
                f"not everything could be sent to {self.remote.shown}: all finished trials are in "
                f"{self.remote.folder}; the same command sends them and continues",
                file=self.out,
            )
        else:
            print(f"all results are at {self.remote.shown}", file=self.out)

    def _send(self) -> None:
        assert self.remote is not None
        try:
            urls.push(self.remote, self.keys)
            self.failed = False
        except UserError as error:
            if not self.failed:
                print(f"note: {error}; finished trials stay in {self.remote.folder}", file=self.out)
            self.failed = True


@contextmanager
def sender(results: Path | str | None, out: TextIO, adapters: bool = False) -> Iterator[Sender]:
    """Open the results folder of a run; at the end, however it comes, send what is left.

    Args:
        results: a folder or a URL.
        out: where to print.
        adapters: whether the run keeps adapters.

    Raises:
        UserError: if it is a URL that cannot be read or written.
    """
    made = Sender(urls.working(results, adapters) if isinstance(results, str) else None, out)
    ended = False
    try:
        yield made
        ended = True
    finally:
        made.finish(ended)
