"""Where interrupted trials keep the state of their training in a results folder. No torch.

A state is a folder ``.training/KEY.STEP``, which appears whole by a renaming; the one before it is deleted then.
"""

from __future__ import annotations

import shutil
from collections.abc import Container
from pathlib import Path

FOLDER = ".training"
"""Inside a results folder. The dot keeps it out of what reads the folder."""


def newest(results: str | Path, key: str) -> Path | None:
    """Return the folder with a trial's latest state; None if it has none."""
    found = _states(Path(results), key)
    return found[-1] if found else None


def install(made: Path, results: str | Path, key: str, step: int) -> Path:
    """Give a finished folder its name, and delete the states before it; return its new path."""
    place = Path(results) / FOLDER / f"{key}.{step}"
    shutil.rmtree(place, ignore_errors=True)  # of another runner that is at the same trial
    made.rename(place)
    for older in _states(Path(results), key):
        if older != place:
            shutil.rmtree(older, ignore_errors=True)
    return place


def discard(results: str | Path, key: str) -> None:
    """Delete a trial's states: the trial has its final row, or begins anew."""
    for state in _states(Path(results), key):
        shutil.rmtree(state, ignore_errors=True)


def sweep(results: str | Path, done: Container[str]) -> None:
    """Delete the states of trials that are done."""
    for state in (Path(results) / FOLDER).glob("[!.]*.*"):
        if state.name.partition(".")[0] in done:
            shutil.rmtree(state, ignore_errors=True)


def _states(results: Path, key: str) -> list[Path]:
    """Return a trial's states, the latest last."""
    found = [p for p in (results / FOLDER).glob(f"{key}.*") if p.name.removeprefix(f"{key}.").isdigit()]
    return sorted(found, key=lambda p: int(p.suffix[1:]))
