"""A control group of the kernel with little memory, in which a trial is killed as it is in a container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_LIMITS = {"memory": "memory.limit_in_bytes", "": "memory.max"}
"""Folder of control groups -> the file of a group's limit, in version 1 and 2 of the kernel's interface."""
_BYTES = 64 * 2**20


@contextmanager
def with_little_memory() -> Iterator[Path | None]:
    """Make a control group whose processes may take 64 MiB more than they have; None where that is not allowed."""
    group = _made()
    try:
        yield group
    finally:
        if group is not None:
            group.rmdir()


def _made() -> Path | None:
    for folder, limit in _LIMITS.items():
        group = Path("/sys/fs/cgroup", folder, f"peftbench-chaos-{os.getpid()}")
        with suppress(OSError):
            group.mkdir()
            try:
                (group / limit).write_text(str(_BYTES))
            except OSError:  # the controller is not enabled here
                group.rmdir()
                continue
            return group
    return None
