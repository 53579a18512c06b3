"""Which machine and which process this is, in the names of files that several machines may write into one folder."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from functools import cache
from pathlib import Path


@cache
def name() -> str:
    """Return eight hexadecimal digits that tell this machine, since it was started, from all others.

    Containers of one machine count as several, because each has process ids of its own.
    """
    known = ""
    with suppress(OSError):
        known = Path("/proc/sys/kernel/random/boot_id").read_text()
    with suppress(OSError):
        known += os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(known.encode()).hexdigest()[:8]


def process_name() -> str:
    """Return a name of this process that no process of any machine has at the same time: ``MACHINE.PID``."""
    return f"{name()}.{os.getpid()}"
