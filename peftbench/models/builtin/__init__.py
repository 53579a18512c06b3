"""The base models that ship inside the package, and shapes of known ones without weights. No torch."""

from __future__ import annotations

from pathlib import Path

BASES = ("nano",)
"""Names that a suite may give as ``base:`` and that mean a folder beside this file."""
_SHAPES = Path(__file__).parent / "shapes"
SHAPES = tuple(sorted(p.name for p in _SHAPES.iterdir() if p.is_dir()))
"""Names that a suite may give as ``base: {shape: NAME}``: the public configs of known models, whose speed and memory
can be measured with random weights, and planned without any."""


def folder(name: str) -> Path:
    """Return the folder of a built-in base, in the Hugging Face layout."""
    return Path(__file__).parent / name


def held_out(name: str) -> Path:
    """Return the file of general text that a built-in base has not read, JSONL with the field ``text``."""
    return folder(name) / "held_out.jsonl"


def shape(name: str) -> Path:
    """Return the folder of a shape's ``config.json``: of one of ``SHAPES``, else the folder of that name."""
    return _SHAPES / name if name in SHAPES else Path(name).expanduser()
