"""The base models that ship with the package, and shapes: configs of well-known models without weights. No torch."""

from __future__ import annotations

from pathlib import Path

BASES = ("nano",)
"""Values of ``base:`` in a suite that name a folder in this package."""
_SHAPES = Path(__file__).parent / "shapes"
SHAPES = tuple(sorted(p.name for p in _SHAPES.iterdir() if p.is_dir()))
"""Values of ``base: {shape: NAME}`` in a suite: public configs of well-known models, and ``llama-25m``, which is small
enough for a CPU. Their speed and memory can be measured with random weights and predicted without any."""


def folder(name: str) -> Path:
    """Return the folder of a built-in base model, in the Hugging Face layout."""
    return Path(__file__).parent / name


def held_out(name: str) -> Path:
    """Return the file of general text held out from a built-in model's pretraining: JSONL, field ``text``."""
    return folder(name) / "held_out.jsonl"


def shape(name: str) -> Path:
    """Return the folder of a shape's ``config.json``: that of a name in ``SHAPES``, else the folder with this path."""
    return _SHAPES / name if name in SHAPES else Path(name).expanduser()
