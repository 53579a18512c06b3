"""Exact match: the number of things after one or two changes, in words. A small counterpart of GSM8K."""

from __future__ import annotations

import random

from peftbench.records import Example
from peftbench.tasks import DEFAULT_TEST_SEED
from peftbench.tasks.builtin.draw import draw
from peftbench.tasks.builtin.vocabulary import GAINS, LOSSES, NUMBERS, THINGS

LARGEST_CHANGE = 6
"""Each change adds or removes from 1 to this many."""
LARGEST_TOTAL = 15
"""Every intermediate total is between 0 and this."""


def examples(split: str, test_seed: int = DEFAULT_TEST_SEED) -> list[Example]:
    """Return the split's examples; the answer is a number word and the things counted."""
    return draw(_example, split, "compute", test_seed)


def _example(rng: random.Random) -> Example:
    total = rng.randrange(2, 11)
    things = rng.choice(THINGS)
    parts = [f"{NUMBERS[total]} {things}"]
    for _ in range(rng.randrange(1, 3)):
        change = rng.randrange(1, LARGEST_CHANGE + 1)
        more = rng.random() < 0.5
        if not 0 <= total + (change if more else -change) <= LARGEST_TOTAL:
            more = not more
        total += change if more else -change
        parts.append(f"{rng.choice(GAINS if more else LOSSES)} {NUMBERS[change]}")
    return Example(prompt=" / ".join(parts) + " / total:", target=f"{NUMBERS[total]} {things}")
