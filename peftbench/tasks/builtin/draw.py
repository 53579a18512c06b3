"""Draw the examples of a split so that no prompt is in two splits or two test sets, for any sizes."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

from peftbench.records import Example
from peftbench.tasks import TEST_SEEDS

COUNTS = {"train": 2000, "validation": 100, "test": 100}
"""Number of examples in each split of a built-in task."""


def split_of(prompt: str) -> tuple[str, int]:
    """Return the split that a prompt belongs to and, for test, the seed of its test set.

    A tenth of all prompts are test and a tenth validation. They are determined by a hash of the prompt, so splits, and
    test sets of different seeds, are disjoint by construction.
    """
    turns, place = divmod(zlib.crc32(prompt.encode()), 10)
    return "test" if place == 0 else "validation" if place == 1 else "train", turns % TEST_SEEDS


def draw(make: Callable[[random.Random], Example], split: str, name: str, test_seed: int) -> list[Example]:
    """Return ``COUNTS[split]`` examples with distinct prompts, the same on every machine and Python.

    Args:
        make: makes one example from a random source; it must be able to make many more prompts than are drawn.
        split: ``train``, ``validation`` or ``test``.
        name: the task's name, so that tasks do not share their draws.
        test_seed: which of the ``TEST_SEEDS`` disjoint test sets; train and validation do not depend on it.

    Raises:
        ValueError: for an unknown split or test seed.
    """
    if split not in COUNTS:
        raise ValueError(f"unknown split {split!r}; allowed: {', '.join(COUNTS)}")
    if not 0 <= test_seed < TEST_SEEDS:
        raise ValueError(f"test_seed {test_seed}; allowed: 0 to {TEST_SEEDS - 1}")
    drawn = test_seed if split == "test" else 0
    rng = random.Random(f"{name} {split} {drawn}")
    found: dict[str, Example] = {}
    while len(found) < COUNTS[split]:
        example = make(rng)
        place, seed = split_of(example.prompt)
        if place == split and (split != "test" or seed == test_seed):
            found.setdefault(example.prompt, example)
    return list(found.values())
