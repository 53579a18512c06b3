"""Sizes of memory as people write them. No torch."""

from __future__ import annotations

import os
import re
from pathlib import Path

from peftbench.errors import UserError
from peftbench.measure import environment

_UNITS = {"b": 1} | {
    f"{prefix}{kind}": base**power
    for power, prefix in enumerate("kmgt", 1)
    for kind, base in (("ib", 1024), ("b", 1000))
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*")


DEVICE = "device"
"""In place of a size: what the device has."""


def budget(text: str, device: str) -> int:
    """Return a budget in bytes: a size, or the memory of the device (the machine's, or its first GPU's).

    Raises:
        UserError: if it is no size, or the device does not tell.
    """
    if text != DEVICE:
        return read(text, "--budget")
    found = environment.describe()
    if device == "cpu":
        return min(int(found["memory_bytes"]), _allowed())
    told = [gpu["memory.total"] for gpu in found["gpus"] or ()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if visible.isdigit():
        told = told[int(visible) :][:1]
    elif visible.startswith("MIG-") or (visible and len(set(told)) > 1):  # a part of one, or which of several
        told = []
    if not told or not _SIZE.fullmatch(told[0]):  # as "[N/A]"
        raise UserError("--budget: nvidia-smi does not tell how much memory the GPU has; give a size like 16GiB")
    return read(told[0], "--budget")


def reserve(text: str | None, budget: int | None) -> int | None:
    """Return what of a trial's budget is kept for what is no tensor; None where nothing was given.

    Raises:
        UserError: if it is no size, or not less than the budget.
    """
    kept = read(text, "--reserve") if text else None
    if kept is not None and budget is not None and kept >= budget:
        raise UserError(f"--reserve: given {text!r}; allowed: less than the budget of {budget:,} bytes for a trial")
    return kept


def _allowed() -> int:
    """Return the memory that this process's control group may take, which a container sets; no limit is very much."""
    try:
        return int(Path("/sys/fs/cgroup/memory.max").read_text())
    except (OSError, ValueError):  # "max" is no number
        return 2**63


def read(text: str, name: str) -> int:
    """Return a size in bytes: ``16GiB`` is 16 x 2^30, ``16GB`` 16 x 10^9, ``1024B`` bytes.

    Args:
        text: what was given.
        name: of the option that it was given for.

    Raises:
        UserError: if it is no size, or none at all.
    """
    found = _SIZE.fullmatch(text)
    unit = _UNITS.get(found[2].lower()) if found else None
    size = int(float(found[1]) * unit) if found and unit else 0
    if size < 1:
        raise UserError(f"{name}: given {text!r}; allowed: a size like 16GiB, 24GB or 500MiB")
    return size
