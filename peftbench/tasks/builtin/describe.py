"""Generation: four facts about a place to eat as one sentence. A small counterpart of E2E and other data-to-text sets.

The price determines the form of the sentence. So its content can be copied, but its form must be learned.
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
"""Price in the record -> form of the sentence."""
LEVELS = tuple(PLANS)


def examples(split: str, test_seed: int = DEFAULT_TEST_SEED) -> list[Example]:
    """Return the split's examples; ``slots`` are the four facts in the words of the sentence."""
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
