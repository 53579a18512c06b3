"""Makes faults happen within the phases of trials. Python imports this file by its name, if its folder is on the path.

``PEFTBENCH_CHAOS_FAULTS`` is a folder with a file ``PHASE.HOW.NUMBER`` for each fault. The first trial that comes to
the phase takes the fault by renaming the file to ``taken-...`` and writing its key into it.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.machinery
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

FAULTS = os.environ.get("PEFTBENCH_CHAOS_FAULTS")
_CLOCK = "peftbench.measure.clock"
_MIB = 2**20


def out_of_memory() -> None:
    """Limit the address space to little more than what is in use, and ask torch for more."""
    import torch

    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 64 * _MIB, resource.RLIM_INFINITY))
    torch.ones(256 * _MIB)


def killed_by_the_kernel() -> None:
    """Write to memory until the control group of the whole command allows no more."""
    held = []
    while True:
        held.append(b"1" * (64 * _MIB))


def hang() -> None:
    """Never come back."""
    while True:
        time.sleep(60)


HOW: dict[str, Callable[[], Any]] = {
    "oom": out_of_memory,
    "kernel": killed_by_the_kernel,
    "hang": hang,
    "segv": lambda: ctypes.string_at(0),
    "abort": os.abort,
}


def take(phase: str) -> str | None:
    """Take a fault of this phase, if one is left, and return how it is."""
    for fault in sorted(Path(str(FAULTS)).glob(f"{phase}.*")):
        taken = fault.with_name(f"taken-{fault.name}")
        try:
            os.rename(fault, taken)
        except FileNotFoundError:  # another trial was faster
            continue
        taken.write_text(Path(os.readlink("/proc/self/fd/2")).stem)  # the log, which is named by the key
        return fault.name.split(".")[1]
    return None


def faulty(phase_of: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``Clock.phase`` with faults at the beginning of the phases."""

    @contextmanager
    def phase(self: Any, name: str) -> Iterator[None]:
        with phase_of(self, name):
            how = take(str(name))
            if how is not None:
                HOW[how]()
            yield

    return phase


class Hook(importlib.abc.MetaPathFinder):
    """Changes the clock when it is imported."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find the clock's module, and have it changed once it is executed."""
        if name != _CLOCK:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def changed(module: ModuleType) -> None:
            execute(module)
            module.Clock.phase = faulty(module.Clock.phase)

        spec.loader.exec_module = changed  # type: ignore[method-assign]
        return spec


if FAULTS:
    sys.meta_path.insert(0, Hook())
