"""Scenes of a results folder that two runs share, that is full, or that is read-only."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tools.validation.chaos import evidence, grids

_WORDS = {"full": "No space left on device", "read-only": "Read-only file system"}


def two_runs(work: Path) -> list[str]:
    """Run the same command twice at the same time: each trial has one final row, and the later one is told."""
    grids.prepare(work, 2, 1)
    first = grids.start(work, "r", work / "first.txt")
    while not any((work / "r").glob(".running-*")) and first.poll() is None:
        try:
            first.wait(0.05)
        except subprocess.TimeoutExpired:
            continue
    second = grids.start(work, "r", work / "second.txt")
    codes = [first.wait(), second.wait()]
    wrong = [] if codes == [0, 0] else [f"exit codes {codes}"]
    rows = evidence.rows(work / "r")
    planned = evidence.planned(work / "r")
    wrong += [f"no row: {key}" for key in planned if key not in rows.whole] + evidence.doubled(work / "r")
    said = (work / "second.txt").read_text()
    wrong += (
        [] if "another run works on this folder (process" in said else [f"the second run says nothing: {said[:800]}"]
    )
    return wrong + evidence.left_over(work, work / "r")


def full_disk(work: Path) -> list[str]:
    """Run into a folder of a file system that is too small, then give it room."""
    return _on_tmpfs(work, "full", "size=28k", "size=64m")


def read_only(work: Path) -> list[str]:
    """Run into a folder that becomes read-only after some trials, then make it writable."""
    return _on_tmpfs(work, "read-only", "size=64m")


def _on_tmpfs(work: Path, what: str, before: str, after: str = "") -> list[str]:
    """Run until the file system refuses, remount it, and continue by the same command. Needs the right to mount."""
    grids.prepare(work, 2, 1)
    place = work / "r"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", before, "tmpfs", place], capture_output=True).returncode:
        print("  left out: this user may not mount a file system", flush=True)
        return []
    try:
        runner = grids.start(work, "r", work / "first.txt")
        while what == "read-only" and runner.poll() is None and len(evidence.rows(place).whole) < 2:
            try:
                runner.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        if what == "read-only":
            subprocess.run(["mount", "--bind", place, place], check=True)  # files that are open do not prevent that
            subprocess.run(["mount", "-o", "remount,bind,ro", place], check=True)
        code, said = runner.wait(), (work / "first.txt").read_text()
        known = evidence.rows(place)
        wrong = [] if code == 2 and _WORDS[what] in said else [f"exit code {code}: {said[-800:]}"]
        wrong += ["a traceback"] if "Traceback" in said else []
        again = ["umount", place] if what == "read-only" else ["mount", "-o", f"remount,{after}", place]
        subprocess.run(again, check=True)
        code = grids.start(work, "r", work / "second.txt").wait()
        rows = evidence.rows(place)
        wrong += [] if code == 0 else [f"exit code {code}: {(work / 'second.txt').read_text()[-800:]}"]
        wrong += [f"lost: {key}" for key in rows.lost(known)] + [f"changed: {key}" for key in rows.changed(known)]
        wrong += [f"no row: {key}" for key in evidence.planned(place) if key not in rows.whole]
        return wrong + evidence.doubled(place) + evidence.left_over(work, place)
    finally:
        while subprocess.run(["umount", "-l", place], capture_output=True).returncode == 0:
            continue
