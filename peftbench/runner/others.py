"""Other commands that run on the same results folder: seen, so that they can be told. No torch."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from peftbench.measure import machine

PREFIX = ".running-"
"""A command holds the lock of a file of this name and that of its process, as long as it runs a grid."""


@contextmanager
def announced(folder: Path) -> Iterator[tuple[int, ...]]:
    """Announce that this process runs trials of a folder; return the processes that do so too, on any machine.

    Several commands may share a folder: each writes whole rows, and of a trial that two have run the later row counts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    others = tuple(sorted(pid for pid in map(_running, folder.glob(f"{PREFIX}*")) if pid is not None))
    own = folder / f"{PREFIX}{machine.process_name()}"
    with open(own, "wb") as held:
        with suppress(OSError):  # another thread of this process runs a grid here, or another command just looks
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            yield others
        finally:
            own.unlink(missing_ok=True)


def note(others: tuple[int, ...]) -> str:
    """Return what is told about other commands on the folder."""
    which = f"process {others[0]}" if len(others) == 1 else f"processes {', '.join(map(str, others))}"
    return (
        f"another run works on this folder ({which}): trials that both have left run twice, of which the later row "
        "counts, and their times are those of a busy machine"
    )


def _running(path: Path) -> int | None:
    """Return the process that holds a file's lock; delete the file of one that was killed."""
    with suppress(OSError, ValueError), open(path, "rb") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return int(path.name.rpartition(".")[2])
        path.unlink(missing_ok=True)
    return None
