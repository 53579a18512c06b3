"""Generation: four facts about a place to eat, told in one sentence. Stands for E2E and other data-to-text sets.

The price decides how the sentence is built, so that what to say is copied and how to say it must be learnt.
"""

from __future__ import annotations

import random

from peftbench.records import Example
from peftbench.tasks import DEFAULT_TEST_SEED
from peftbench.tasks.builtin.draw import draw
from peftbench.tasks.builtin.vocabulary import AREAS, FOODS, PLACES, PRICES

PLANS = {
    "low": "For {price} {food} in the {area}, try {place}.",
    "middle": "{place} in the {area} has {food} at a {price} price.",
    "high": "The {food} of {place} in the {area} is good but {price}.",
}
"""How a sentence is built, by the price as the record gives it."""
LEVELS = tuple(PLANS)


def examples(split: str, test_seed: int = DEFAULT_TEST_SEED) -> list[Example]:
    """Return the split's examples; ``slots`` are the four facts as the sentence words them."""
    return draw(_example, split, "describe", test_seed)


def _example(rng: random.Random) -> Example:
    place, food, area = rng.choice(PLACES), rng.choice(FOODS), rng.choice(AREAS)
    level = rng.choice(LEVELS)
    price = PRICES[level]
    target = PLANS[level].format(place=place, food=food, area=area, price=price)
    return Example(
        prompt=f"name: {place} | food: {food} | area: {area} | price: {level} | text:",
        target=target,
        references=(target,),
        slots=(place, food, area, price),
    )
