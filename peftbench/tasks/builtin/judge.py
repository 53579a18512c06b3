"""Choice: which of four classes a short text is of. Stands for GLUE and other classification sets.

Each text tells of two events that leave different feelings, and only their order in time tells which one counts; so
the words alone do not give the class away. The classes are colours, one for each feeling: a base that knows the
feelings still has to be told which colour is whose, and starts at chance.
"""

from __future__ import annotations

import random

from peftbench.records import Example
from peftbench.tasks import DEFAULT_TEST_SEED
from peftbench.tasks.builtin.draw import draw
from peftbench.tasks.builtin.vocabulary import EVENTS, PEOPLE

CLASSES = {"glad": "yellow", "sad": "blue", "angry": "red", "afraid": "white"}
"""The feeling that a text ends with, and the class it has for that: four, each as common as the others."""
FEELINGS = tuple(CLASSES)
CHOICES = tuple(CLASSES.values())


def examples(split: str, test_seed: int = DEFAULT_TEST_SEED) -> list[Example]:
    """Return the split's examples; the choices are the same for each."""
    return draw(_example, split, "judge", test_seed)


def _example(rng: random.Random) -> Example:
    place = rng.randrange(len(FEELINGS))
    feeling, before = FEELINGS[place], FEELINGS[place - rng.randrange(1, len(FEELINGS))]
    who, last, first = rng.choice(PEOPLE), rng.choice(EVENTS[feeling]), rng.choice(EVENTS[before])
    # the event that happened last decides, wherever the sentence puts it
    text = f"{who} {first}, but then {who} {last}" if rng.random() < 0.5 else f"{who} {last} after {who} {first}"
    return Example(prompt=f"text: {text} | class:", target=CLASSES[feeling], choices=CHOICES)
