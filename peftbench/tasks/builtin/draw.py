"""Draw a split's examples so that no prompt is ever in two splits or two test sets, whatever the counts."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable

from peftbench.records import Example
from peftbench.tasks import TEST_SEEDS

COUNTS = {"train": 2000, "validation": 100, "test": 100}
"""Examples in each split of a built-in task."""


def split_of(prompt: str) -> tuple[str, int]:
    """Return the split that a prompt belongs to, and the seed of the test set that it may be in.

    A tenth of all prompts are test, a tenth validation. The prompt itself decides, so splits are disjoint by
    construction, and so are the test sets of different seeds.
    """
    turns, place = divmod(zlib.crc32(prompt.encode()), 10)
    return "test" if place == 0 else "validation" if place == 1 else "train", turns % TEST_SEEDS


def draw(make: Callable[[random.Random], Example], split: str, name: str, test_seed: int) -> list[Example]:
    """Return ``COUNTS[split]`` examples with distinct prompts, the same on every machine and Python.

    Args:
        make: Makes one example from a random source; it must be able to make many more prompts than are asked for.
        split: ``train``, ``validation`` or ``test``.
        name: The task's name, so that no two tasks share their draws.
        test_seed: Which of the ``TEST_SEEDS`` disjoint test sets; train and validation are the same for each.
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
