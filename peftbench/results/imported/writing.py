"""Write imported nights as results folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from peftbench.results import store
from peftbench.results.imported.night import ImportedNight


def write(nights: Sequence[ImportedNight], folder: Path) -> list[Path]:
    """Write each night as a results folder in a folder and return their paths.

    Raises:
        UserError: if a night has results there already, or a folder cannot be written.
    """
    written = []
    for night in nights:
        store.check_new(folder / night.name)  # before any is written
    for night in nights:
        place = folder / night.name
        store.write_new(place, night.results, night.tasks)
        written.append(place)
    return written
