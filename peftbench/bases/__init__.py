"""The base models that ship inside the package. Nothing here imports torch."""

from __future__ import annotations

from pathlib import Path

BASES = ("nano",)
"""Names that a suite may give as ``base:`` and that mean a folder beside this file."""


def folder(name: str) -> Path:
    """Return the folder of a built-in base, in the Hugging Face layout."""
    return Path(__file__).parent / name
