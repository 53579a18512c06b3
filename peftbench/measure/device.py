"""Which device a suite runs on, determined without importing torch."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Sequence
from pathlib import Path

from peftbench.errors import UserError

NODES = ("/dev/nvidiactl", "/dev/dxg", "/dev/nvhost-gpu", "/dev/nvgpu")
"""Where Linux shows an NVIDIA device: to the driver for PCIe cards, under WSL 2, on Jetson boards."""


def has_nvidia(nodes: Sequence[str] = NODES) -> bool:
    """Whether an NVIDIA device is visible to this process."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and any(Path(node).exists() for node in nodes)


def torch_has_cuda() -> bool:
    """Whether the installed torch is a CUDA build; read from its files, because importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    version = Path(spec.origin).with_name("version.py").read_text()
    return re.search(r"^cuda\b.*=\s*['\"]", version, re.MULTILINE) is not None


def may_touch_cuda() -> bool:
    """Whether importing a library could initialise CUDA: there is an NVIDIA device, and torch is a CUDA build."""
    return has_nvidia() and torch_has_cuda()


def why_no_cuda() -> str | None:
    """Return why torch cannot use a GPU here; None if it can."""
    if not torch_has_cuda():
        return "the installed torch is a CPU build"
    return None if has_nvidia() else "no NVIDIA device was found on this machine"


def resolve(asked: str, present: bool = True) -> str:
    """Return ``cpu`` or ``cuda`` for a suite's ``device``; ``auto`` means the GPU if torch can use one.

    Args:
        asked: ``auto``, ``cpu`` or ``cuda``.
        present: whether the device must exist on this machine; for a plan it need not.

    Raises:
        UserError: if ``cuda`` is asked for and must exist, but torch cannot use a GPU; with the reason.
    """
    reason = why_no_cuda()
    if asked == "cuda" and reason and present:
        raise UserError(f"device: cuda was asked for, but {reason}")
    if asked == "auto":
        return "cpu" if reason else "cuda"
    return asked


def count(kind: str, nodes: Path = Path("/dev")) -> int | None:
    """Return how many devices of a kind this machine has: its cores, or the NVIDIA devices that are visible.

    Only PCIe cards have a file each in ``nodes``: under WSL 2 and on Jetson boards the number is not known (None).
    """
    if kind == "cpu":
        return len(os.sched_getaffinity(0))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([each for each in visible.split(",") if each.strip()])
    return len([path for path in nodes.glob("nvidia*") if re.fullmatch(r"nvidia\d+", path.name)]) or None


def check_count(kind: str, asked: int) -> None:
    """Check that this machine has as many devices as a trial asks for.

    Args:
        kind: ``cpu`` or ``cuda``.
        asked: the number of devices.

    Raises:
        UserError: if it is known to have fewer.
    """
    here = count(kind)
    if here is not None and asked > max(1, here):
        what = "CPU core" if kind == "cpu" else "GPU"
        raise UserError(
            f"devices.count: given {asked}; allowed: at most {here} here, as this machine has {here} "
            f"{what}{'s' * (here != 1)}, one per device; give fewer, or run on a cluster of which one "
            f"machine has {asked:,} (--executor ray)"
        )
