"""Parse memory sizes like ``16GiB`` and read the memory of this machine. No torch."""

from __future__ import annotations

import os
import re

from peftbench.errors import UserError
from peftbench.measure import cgroups, environment

_UNITS = {"b": 1} | {
    f"{prefix}{kind}": base**power
    for power, prefix in enumerate("kmgt", 1)
    for kind, base in (("ib", 1024), ("b", 1000))
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*")


DEVICE = "device"
"""The text that stands for the memory of the device."""


def check(*sizes: str | None) -> None:
    """Refuse a budget, and then what it reserves, that is no size, before the base model or the data is looked at.

    Raises:
        UserError: if a text is neither a size nor ``device``; None is no text.
    """
    for text, name in zip(sizes, ("--budget", "--reserve"), strict=True):
        if text and text != DEVICE:
            read(text, name)


def budget(text: str, device: str) -> int:
    """Return a budget in bytes: a size, or the memory of the device (the machine's, or its first visible GPU's).

    Raises:
        UserError: if the text is not a size, or the device does not report its memory.
    """
    if text != DEVICE:
        return read(text, "--budget")
    found = environment.describe()
    if device == "cpu":
        return min(int(found["memory_bytes"]), cgroups.memory_limit_bytes())
    sizes = [gpu["memory.total"] for gpu in found["gpus"] or ()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if visible.isdigit():
        sizes = sizes[int(visible) :][:1]
    elif visible.startswith("MIG-") or (visible and len(set(sizes)) > 1):  # a part of a GPU, or one named by its id
        sizes = []
    if not sizes or not _SIZE.fullmatch(sizes[0]):  # as "[N/A]"
        raise UserError("--budget: nvidia-smi does not report how much memory the GPU has; give a size like 16GiB")
    return read(sizes[0], "--budget")


def reserve(text: str | None, budget: int | None) -> int | None:
    """Return the bytes of a trial's budget to reserve for non-tensor memory; None if nothing was given.

    Raises:
        UserError: if the text is not a size, or not less than the budget.
    """
    size = read(text, "--reserve") if text else None
    if size is not None and budget is not None and size >= budget:
        raise UserError(f"--reserve: given {text!r}; allowed: less than the budget of {budget:,} bytes per trial")
    return size


def read(text: str, name: str) -> int:
    """Return a size in bytes: ``16GiB`` is 16 x 2^30, ``16GB`` 16 x 10^9, ``1024B`` bytes.

    Args:
        text: the size.
        name: the command-line option, for the error message.

    Raises:
        UserError: if it is not a size, or less than a byte.
    """
    found = _SIZE.fullmatch(text)
    unit = _UNITS.get(found[2].lower()) if found else None
    size = int(float(found[1]) * unit) if found and unit else 0
    if size < 1:
        raise UserError(f"{name}: given {text!r}; allowed: a size like 16GiB, 24GB or 500MiB")
    return size
