"""The files from which interrupted trials continue: their places in a results folder. No torch."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path

FOLDER = ".training"
"""Inside a results folder. The dot keeps it out of what reads the folder."""


def path_of(folder: str | Path, key: str) -> Path:
    """Return the path of a trial's state of training, which exists only if the trial was interrupted."""
    return Path(folder) / FOLDER / f"{key}.safetensors"


def discard(folder: str | Path, key: str) -> None:
    """Delete a trial's state of training: the trial has its final row, or begins anew."""
    place = path_of(folder, key)
    if place.parent.is_dir():
        place.unlink(missing_ok=True)


def sweep(folder: str | Path, done: Container[str]) -> None:
    """Delete the states of trials that are done."""
    for path in (Path(folder) / FOLDER).glob("[!.]*"):
        if path.name.removesuffix(".safetensors") in done:
            path.unlink(missing_ok=True)
