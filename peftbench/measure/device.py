"""Which device a suite runs on, determined without importing torch."""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path

from peftbench.errors import UserError


def has_nvidia() -> bool:
    """Whether an NVIDIA device is visible to this process."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1") and Path("/dev/nvidiactl").exists()


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
