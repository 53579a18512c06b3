"""Parts of the page's data that fail alone: each is a warning on the page, and everything else is there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from peftbench.report.guarded import guarded

T = TypeVar("T")


@dataclass
class Pieces:
    """Makes the pieces of a page and collects a note for each that could not be made."""

    notes: list[str] = field(default_factory=list)

    def make(self, what: str, make: Callable[[], T], otherwise: Any) -> T:
        """Return what a function makes; if it fails, ``otherwise``, with a note.

        Args:
            what: the piece as the note names it.
            make: makes it.
            otherwise: stands in its place.
        """

        def failed(note: str) -> T:
            self.notes.append(note)
            return otherwise  # type: ignore[no-any-return]

        return guarded(what, make, failed)
