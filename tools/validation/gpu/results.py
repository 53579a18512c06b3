"""What was measured, written at once: a file of JSON lines for each part, so that nothing is lost whatever ends it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peftbench.records import Result, Status, StepRow, TrialRow

MOST_FILES, MOST_BYTES = 8, 16 * 2**20
"""What comes back from the machine at most."""
_SPARE = 2**16
"""Bytes of a file that are left for saying which results had no room."""
AGAIN = (Status.ERROR, Status.KILLED, Status.TIMEOUT, Status.SKIPPED)
"""A cell that ended so is measured again when the run is resumed."""

FINE = (Status.OK, Status.OOM, Status.UNSUPPORTED)
"""A cell that ended so has a result: that it does not fit is one."""


class Kept:
    """The results of all parts in a folder.

    Args:
        folder: where they are written.
        earlier: folders with the results of earlier runs, whose cells are not measured again; their lines are copied.
    """

    def __init__(self, folder: Path, earlier: tuple[Path, ...] = ()) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for source in earlier:
            for path in sorted(source.glob("*.jsonl")):
                target = folder / path.name
                if path.resolve() != target.resolve():
                    with target.open("a") as file:
                        file.write(path.read_text().rstrip("\n") + "\n")

    def done(self, part: str) -> set[str]:
        """Return the names of the part's cells that need not be measured again."""
        return {name for name, line in latest(self.folder, part).items() if line["status"] not in AGAIN}

    def failed(self, part: str) -> list[str]:
        """Return the names of the part's cells that failed, with why."""
        found = latest(self.folder, part).items()
        return [f"{name}: {_why(line)}" for name, line in found if line["status"] not in FINE]

    def add(self, part: str, name: str, status: str, **measured: Any) -> None:
        """Write the result of a cell, and wait until it is on disk.

        One that has no room in what comes back is written as an error, which ``failed`` tells.

        Raises:
            ValueError: if not even that has room.
        """
        line = json.dumps({"name": name, "status": status, **measured}, default=str) + "\n"
        path = self.folder / f"{part}.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if size + len(line) > MOST_BYTES - _SPARE:
            why = f"ended {status}, but its result of {len(line):,} bytes had no room in {path.name}"
            line = json.dumps({"name": name, "status": Status.ERROR, "message": why}) + "\n"
        if size + len(line) > MOST_BYTES:
            raise ValueError(f"{name}: {path.name} is full")
        with path.open("a") as file:
            file.write(f"\n{line}" if _cut_off(path) else line)
            file.flush()
            os.fsync(file.fileno())

    def add_trial(self, part: str, name: str, result: Result, log: str | None) -> None:
        """Write the result of a trial, with the end of its log if it did not end ok."""
        told = _end(log) if log and result.row.status != Status.OK else None
        steps = [asdict(step) for step in result.steps]
        self.add(part, name, result.row.status, row=asdict(result.row), steps=steps, log=told)


def _cut_off(path: Path) -> bool:
    """Return whether a file ends within a line, as a process leaves it that was killed while it wrote."""
    if not path.exists() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() != b"\n"


def _why(line: Mapping[str, Any]) -> str:
    row = line.get("row") or {}
    told = (line["status"], row.get("phase"), row.get("message") or line.get("message"))
    return " ".join(str(part)[-500:] for part in told if part)


def _end(log: str) -> str | None:
    path = Path(log)
    return path.read_text(errors="replace")[-4000:] if path.is_file() else None


def lines(folder: Path, part: str) -> Iterator[dict[str, Any]]:
    """Yield what a part has written, in order; a last line that was cut off is left out."""
    path = folder / f"{part}.jsonl"
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def latest(folder: Path, part: str) -> Mapping[str, dict[str, Any]]:
    """Return the last line of each cell of a part; one that was measured stays before one that failed later."""
    return latest_of((folder,), part)


def latest_of(folders: Sequence[Path], part: str) -> Mapping[str, dict[str, Any]]:
    """Return the same of several folders, the first run's first."""
    found: dict[str, dict[str, Any]] = {}
    for line in (each for folder in folders for each in lines(folder, part)):
        if line["name"] not in found or line["status"] not in AGAIN:
            found[line["name"]] = line
    return found


def result(line: Mapping[str, Any]) -> Result:
    """Return the result of a trial from its line."""
    return Result(TrialRow(**line["row"]), tuple(StepRow(**step) for step in line["steps"]))
