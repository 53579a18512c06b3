"""Choice: which of four feelings a short text ends with. Stands for GLUE and other classification sets.

Each text tells of two events that leave different feelings, and only their order in time tells which one counts; so
the words alone do not give the class away.
"""

from __future__ import annotations

import random

from peftbench.records import Example
from peftbench.tasks.draw import draw
from peftbench.tasks.words import EVENTS, PEOPLE

CHOICES = tuple(EVENTS)
"""The four classes, each as likely as the others: chance is a quarter."""


def examples(split: str, seed: int = 0) -> list[Example]:
    """Return the split's examples; the choices are the same for each."""
    return draw(_example, split, "judge", seed)


def _example(rng: random.Random) -> Example:
    place = rng.randrange(len(CHOICES))
    feeling, before = CHOICES[place], CHOICES[place - rng.randrange(1, len(CHOICES))]
    who, last, first = rng.choice(PEOPLE), rng.choice(EVENTS[feeling]), rng.choice(EVENTS[before])
    # the event that happened last decides, wherever the sentence puts it
    text = f"{who} {first}, but then {who} {last}" if rng.random() < 0.5 else f"{who} {last} after {who} {first}"
    return Example(prompt=f"text: {text} | class:", target=feeling, choices=CHOICES)
