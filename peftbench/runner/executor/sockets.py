"""The folder of multiprocessing's sockets: short enough for a socket's path, and deleted after every way to end."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import shutil
import tempfile
from contextlib import suppress
from multiprocessing import util
from pathlib import Path

PREFIX = "pymp-peftbench-"
"""Names of folders that this module makes. Each is locked as long as its process lives."""
LONGEST = 80
"""Most bytes of such a folder: Linux allows paths of 107, and the names of sockets have up to 20."""
_SHORT = "/tmp"
_locks: list[int] = []
"""Open descriptors whose locks this process holds until it ends."""


def prepare() -> None:
    """Give multiprocessing a folder that the next run deletes if this process is killed; delete such folders.

    multiprocessing makes a folder of its own on first use, which a killed process leaves behind. One that it has made
    already is kept unless its path is too long for a socket.
    """
    config = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    given = config.get("tempdir")
    if given is not None and len(os.fsencode(given)) <= LONGEST:
        return
    usual = tempfile.gettempdir()
    place = usual if len(os.fsencode(usual)) + len(PREFIX) + 9 <= LONGEST else _SHORT
    for folder in {usual, place}:
        sweep(Path(folder))
    made = _locked_folder(place)
    util.Finalize(None, shutil.rmtree, args=(made,), kwargs={"ignore_errors": True}, exitpriority=-100)
    config["tempdir"] = made


def sweep(place: Path) -> None:
    """Delete the folders of processes that were killed: those whose lock nobody holds."""
    for left in place.glob(f"{PREFIX}*"):
        with suppress(OSError):  # it belongs to someone else, or is gone
            descriptor = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(descriptor)


def _locked_folder(place: str) -> str:
    while True:
        made = tempfile.mkdtemp(prefix=PREFIX, dir=place)
        descriptor = os.open(made, os.O_RDONLY | os.O_DIRECTORY)
        with suppress(OSError):  # another process sweeps it in the instant before it is locked
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.isdir(made):
                _locks.append(descriptor)
                return made
        os.close(descriptor)
