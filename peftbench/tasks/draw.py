"""Draw a split's examples so that no prompt is ever in two splits, whatever the counts and seeds."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

from peftbench.records import Example

COUNTS = {"train": 2000, "validation": 100, "test": 100}
"""Examples in each split of a built-in task."""


def split_of(prompt: str) -> str:
    """Return the split that a prompt belongs to: a tenth of all prompts are test, a tenth validation.

    The prompt itself decides, so splits stay disjoint even when one is drawn again from another seed.
    """
    place = zlib.crc32(prompt.encode()) % 10
    return "test" if place == 0 else "validation" if place == 1 else "train"


def draw(make: Callable[[random.Random], Example], split: str, name: str, seed: int = 0) -> list[Example]:
    """Return ``COUNTS[split]`` examples with distinct prompts, the same on every machine and Python.

    Args:
        make: Makes one example from a random source; it must be able to make many more prompts than are asked for.
        split: ``train``, ``validation`` or ``test``.
        name: The task's name, so that no two tasks share their draws.
        seed: Another seed gives other examples of the same split.
    """
    if split not in COUNTS:
        raise ValueError(f"unknown split {split!r}; allowed: {', '.join(COUNTS)}")
    rng = random.Random(f"{name} {split} {seed}")
    found: dict[str, Example] = {}
    while len(found) < COUNTS[split]:
        example = make(rng)
        if split_of(example.prompt) == split:
            found.setdefault(example.prompt, example)
    return list(found.values())
