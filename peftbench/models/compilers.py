"""What ``torch.compile`` needs on this machine besides torch: a compiler, and Python's headers. No torch."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

_CANDIDATES = {
    "cpu": ("CXX", ("clang++" if sys.platform == "darwin" else "g++",), "C++"),
    "cuda": ("CC", ("gcc", "clang"), "C"),
}
"""Device -> environment variable, programs and language of the compiler: inductor's for a CPU, triton's for a GPU."""


def why_missing(device: str) -> str | None:
    """Return what is missing to compile for a device, as a clause; None if nothing is.

    Args:
        device: ``cpu`` or ``cuda``.
    """
    variable, programs, language = _CANDIDATES[device]
    named = os.environ.get(variable)
    if not any(shutil.which(each) for each in ([named] if named else programs)):
        return f"it needs a {language} compiler, and {named or ' or '.join(programs)} is not found"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return f"it needs the headers of Python {sysconfig.get_python_version()}, which are not installed"
    if device == "cuda" and find_spec("triton") is None:
        return "it needs the package triton, which is not installed"
    return None
