"""One night of another benchmark's runs."""

from __future__ import annotations

from dataclasses import dataclass

from peftbench.records import Result


@dataclass(frozen=True)
class ImportedNight:
    """The runs of one night, which become one results folder."""

    name: str
    """Name of the folder; it begins with the date."""
    results: tuple[Result, ...]
    tasks: tuple[str, ...]
    """All tasks, so that a run which failed has their columns too."""
    unscored: tuple[str, ...] = ()
    """Tasks whose metrics are kept, but none of them is a score."""
    source: str = ""
    """What it was read from, in words."""
    left_out: tuple[str, ...] = ()
    """What lay beside the files that were read and was not, with the reason."""
