"""The environment of a measurement: packages, machine, state of the source. No torch, no absolute paths."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from peftbench.version import __version__

_PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "lm_eval",
    "accelerate",
    "datasets",
    "tokenizers",
    "safetensors",
    "numpy",
    "schedulefree",
    "pytorch_optimizer",
    "torchao",
)
OPENMP = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
_SPINS = {"GOMP_SPINCOUNT": "5000"}
"""How many turns a thread spins while it waits for another thread, before it sleeps.

GNU OpenMP's default of 300,000 turns takes milliseconds. Next to any other job, spinning threads then keep the CPU from
the thread that they wait for, and a step takes tens of times as long. With 5,000 turns a trial that runs alone was no
slower in seven paired measurements; without spinning (passive) a small model takes half as long again."""
_THREADS = "/proc/self/task"
_PACKAGE = Path(__file__).parents[1]


def describe(gpus: str | None = None) -> dict[str, Any]:
    """Return versions, CPU, memory, GPU, driver and git state; None where unknown.

    Args:
        gpus: those to describe, as in ``visible``; None for all of this machine.
    """
    return {
        "packages": {"peftbench": __version__} | {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(),
        "cpu_count": os.cpu_count(),
        "cpus_available": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "gpus": _gpus(gpus),
        "git": _git(),
        "openmp": openmp(),
    }


@cache
def code_sha256() -> str:
    """Return the SHA-256 of this package's source."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(_PACKAGE).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def openmp() -> dict[str, str]:
    """Return the environment variables that set how OpenMP threads wait: the user's if set, else the default here."""
    return {name: os.environ[name] for name in OPENMP if os.environ.get(name)} or dict(_SPINS)


def visible(gpus: str) -> dict[str, str]:
    """Return the environment variables that show a process some GPUs only.

    Args:
        gpus: their numbers among all, in the order of ``nvidia-smi``, or their UUIDs, with commas.
    """
    return {"CUDA_VISIBLE_DEVICES": gpus, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def load_average() -> float | None:
    """Return the machine's one-minute load average; None if it is not known."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None


def waiting_by_thread(process: int | None = None) -> dict[str, float] | None:
    """Return for how many seconds each thread has been runnable but without a CPU, by thread id.

    Args:
        process: its id; None for this one.

    Linux counts this per thread (second field of ``schedstat``). None if the system does not report it.
    """
    found = {}
    threads = _THREADS if process is None else f"/proc/{process}/task"
    try:
        names = os.listdir(threads)
    except OSError:  # no such system, or a process that has just ended
        return None
    for thread in names:
        try:
            with open(f"{threads}/{thread}/schedstat", "rb", buffering=0) as file:
                ran, waited, *_ = map(int, file.read().split())
        except (OSError, LookupError, ValueError):  # a thread that has just ended, or a kernel that does not count
            continue
        if ran:  # a kernel that does not count reports zero for both
            found[thread] = waited / 1e9
    return found or None


def waited(before: dict[str, float] | None, after: dict[str, float] | None) -> float | None:
    """Return the seconds between two readings of ``waiting_by_thread``, summed over threads; None if not known."""
    if before is None or after is None:
        return None
    return sum(max(0.0, seconds - before.get(thread, 0.0)) for thread, seconds in after.items())


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def _gpus(only: str | None) -> list[dict[str, str]] | None:
    """Return name, memory, driver and power limit of GPUs; None without an NVIDIA driver."""
    fields = ("name", "memory.total", "driver_version", "power.limit")
    chosen = [f"--id={only}"] if only else []
    found = _output("nvidia-smi", *chosen, f"--query-gpu={','.join(fields)}", "--format=csv,noheader")
    if not found:
        return None
    return [dict(zip(fields, map(str.strip, line.split(",")), strict=False)) for line in found.splitlines()]


def _git() -> dict[str, Any] | None:
    """Return the commit of the running source and whether it has changes; None if it is not a git checkout."""
    here = Path(__file__).resolve().parents[1]
    top = _output("git", "-C", str(here), "rev-parse", "--show-toplevel")
    if not top or Path(top) != here.parent:
        return None
    commit = _output("git", "-C", str(here), "rev-parse", "HEAD")
    changes = _output("git", "-C", str(here), "status", "--porcelain", "--", str(here))
    return {"commit": commit, "dirty": bool(changes)}


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
