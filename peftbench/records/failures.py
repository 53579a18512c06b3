"""Messages of failures: in one line, without paths of this machine; and whether memory ran out. No torch."""

from __future__ import annotations

import re
import sys
import traceback
from pathlib import Path

_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "_status_alloc_failed", "_allocation_failed")
"""Parts of the messages of the host, of CUDA and of its libraries (cuBLAS, cuDNN, cuSOLVER)."""


def words(error: BaseException) -> str:
    """Return an exception's type and first line; if it has no text, the line of code that raised it."""
    lines = str(error).strip().splitlines()
    found = traceback.extract_tb(error.__traceback__)
    if lines or not found:
        return f"{type(error).__name__}: {lines[0] if lines else 'no text'}"
    return f"{type(error).__name__} in {Path(found[-1].filename).name}, line {found[-1].lineno}: {found[-1].line}"


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception means that memory ran out, on the host or on the device."""
    torch = sys.modules.get("torch")  # if torch is not imported, it has raised nothing
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)


_FOLDER = r"[^\s/=,'\"]+/"
_ABSOLUTE = re.compile(rf"(?<![\w./~])(?:/(?!/)(?:{_FOLDER})+|~/(?:{_FOLDER})*)")
"""The folders of an absolute path or of a path in the home folder; not the host of a URL."""


def without_paths(text: str) -> str:
    """Return a text with every absolute path cut to its last part, because no path of a machine is stored."""
    for place in sorted({str(Path.home()), str(Path.cwd())} - {"/"}, key=len, reverse=True):
        text = text.replace(f"{place}/", "")
    return _ABSOLUTE.sub("", text)
