"""Choice: the class of a short text, one of four. A small counterpart of GLUE and other classification sets.

Each text describes two events that cause different feelings. The later event determines the class, so the words alone,
without their order in time, do not. The classes are colours, one for each feeling. A base model that knows the feelings
must still learn their colours, and starts at chance.
"""

from __future__ import annotations

import random

from peftbench.records import Example
from peftbench.tasks import DEFAULT_TEST_SEED
from peftbench.tasks.builtin.draw import draw
from peftbench.tasks.builtin.vocabulary import EVENTS, PEOPLE

CLASSES = {"glad": "yellow", "sad": "blue", "angry": "red", "afraid": "white"}
"""Final feeling in a text -> class. All four are equally frequent."""
FEELINGS = tuple(CLASSES)
CHOICES = tuple(CLASSES.values())


def examples(split: str, test_seed: int = DEFAULT_TEST_SEED) -> list[Example]:
    """Return the split's examples; the choices are the same for each."""
    return draw(_example, split, "judge", test_seed)


def _example(rng: random.Random) -> Example:
    place = rng.randrange(len(FEELINGS))
    feeling, before = FEELINGS[place], FEELINGS[place - rng.randrange(1, len(FEELINGS))]
    who, last, first = rng.choice(PEOPLE), rng.choice(EVENTS[feeling]), rng.choice(EVENTS[before])
    # the later event determines the class, wherever it is in the sentence
    text = f"{who} {first}, but then {who} {last}" if rng.random() < 0.5 else f"{who} {last} after {who} {first}"
    return Example(prompt=f"text: {text} | class:", target=CLASSES[feeling], choices=CHOICES)
