"""A base model's tokenizer before a run, read once, and the examples that are tokenized with it. No torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from peftbench.errors import Unsupported
from peftbench.models import tokenizer_file
from peftbench.models.tokenizer_file import TokenizerFile
from peftbench.records import Example, Trial

Folder = Callable[[Trial], Path | None]
"""Gives the folder of a trial's base model; None if it is not on this machine."""
_MOST = 2000
"""Most training examples of a task that are tokenized before a run, evenly spaced."""


def spaced(examples: Sequence[Example], most: int = _MOST) -> Sequence[Example]:
    """Return a sample of examples, evenly spaced; all if they are few."""
    return examples[:: -(-len(examples) // most) or 1]


@cache
def speller_of(folder: Path) -> TokenizerFile | None:
    """Return a base model's tokenizer; None if it has no ``tokenizer.json`` or it cannot be read."""
    try:
        return tokenizer_file.read(folder)
    except Unsupported:  # reported by the code that needs the tokenizer
        return None
