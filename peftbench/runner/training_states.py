"""Where interrupted trials keep the state of their training in a results folder. No torch.

A state is a folder ``.training/KEY.STEP``, which appears whole by a renaming; the one before it is deleted then. Of a
trial on several devices it has a folder for the part of each process.
"""

from __future__ import annotations

import shutil
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

from peftbench.results.store import files

FOLDER = ".training"
"""Inside a results folder. The dot keeps it out of what reads the folder."""
ASIDE = "aside"
"""Ending of the name of a state that is not used."""


def newest(results: str | Path, key: str) -> Path | None:
    """Return the folder with a trial's latest state; None if it has none."""
    found = _states(Path(results), key)
    return found[-1] if found else None


def part(state: Path, rank: int, count: int) -> Path:
    """Return the folder with the part of a state that is one process's: of a single process, the state itself."""
    return state if count == 1 else state / f"rank{rank}"


def install(made: Path, results: str | Path, key: str, step: int) -> Path:
    """Give a finished folder its name, and delete the states before it; return its new path."""
    place = Path(results) / FOLDER / f"{key}.{step}"
    shutil.rmtree(place, ignore_errors=True)  # of another runner that is at the same trial
    made.rename(place)
    files.sync(place.parent)  # or a power cut could undo the renaming after the older states are deleted
    for older in _states(Path(results), key):
        if older != place:
            shutil.rmtree(older, ignore_errors=True)
    return place


def discard(results: str | Path, key: str) -> None:
    """Delete a trial's states, those that were set aside too: the trial has its final row."""
    for state in (Path(results) / FOLDER).glob(f"{key}.*"):
        shutil.rmtree(state, ignore_errors=True)


def set_aside(results: str | Path, key: str) -> None:
    """Rename a trial's state, from which training cannot continue: the trial begins anew. Only the last one is kept."""
    for older in (Path(results) / FOLDER).glob(f"{key}.*.{ASIDE}"):
        shutil.rmtree(older, ignore_errors=True)
    for state in _states(Path(results), key):
        with suppress(OSError):  # another rank or runner was first
            state.rename(state.with_name(f"{state.name}.{ASIDE}"))


def sweep(results: str | Path, done: Container[str]) -> None:
    """Delete the states of trials that are done."""
    for state in (Path(results) / FOLDER).glob("[!.]*.*"):
        if state.name.partition(".")[0] in done:
            shutil.rmtree(state, ignore_errors=True)


def _states(results: Path, key: str) -> list[Path]:
    """Return a trial's states, the latest last."""
    found = [p for p in (results / FOLDER).glob(f"{key}.*") if p.name.removeprefix(f"{key}.").isdigit()]
    return sorted(found, key=lambda p: int(p.suffix[1:]))
