"""A control group of the kernel, whose memory a command and its trials share as in a container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NO_LIMIT = 2**62
_LARGEST = ("memory.max_usage_in_bytes", "memory.peak")
"""Files of the largest memory of a group, in version 1 and 2."""
_LIMITS = {"memory": "memory.limit_in_bytes", "": "memory.max"}
"""Folder of control groups -> the file of a group's limit, in version 1 and 2 of the kernel's interface."""


@contextmanager
def limited_to(size: int) -> Iterator[Path | None]:
    """Make a control group with a limit of memory in bytes; None where that is not allowed.

    A process enters it when its id is written to the group's file ``cgroup.procs``, and its children are in it, too.
    """
    group = _made(size)
    try:
        yield group
    finally:
        if group is not None:
            group.rmdir()


def largest_bytes(group: Path) -> int:
    """Return the most memory that the processes of a group have taken at once."""
    return next(int((group / name).read_text()) for name in _LARGEST if (group / name).is_file())


def _made(size: int) -> Path | None:
    for folder, limit in _LIMITS.items():
        group = Path("/sys/fs/cgroup", folder, f"peftbench-chaos-{os.getpid()}")
        with suppress(OSError):
            group.mkdir()
            try:
                (group / limit).write_text(str(size))
            except OSError:  # the controller is not enabled here
                group.rmdir()
                continue
            return group
    return None
