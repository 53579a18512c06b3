"""What an exception says: in a line, and whether it is that memory ran out."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch

_OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "_status_alloc_failed", "_allocation_failed")
"""In what the host, CUDA, and CUDA's libraries (cuBLAS, cuDNN, cuSOLVER) say."""


def words(error: BaseException) -> str:
    """Return an exception's kind and first line; of one without text, the line of code that raised it."""
    lines = str(error).strip().splitlines()
    found = traceback.extract_tb(error.__traceback__)
    if lines or not found:
        return f"{type(error).__name__}: {lines[0] if lines else 'no text'}"
    return f"{type(error).__name__} in {Path(found[-1].filename).name}, line {found[-1].lineno}: {found[-1].line}"


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on the host or on the device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY)
