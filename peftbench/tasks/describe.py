"""Generation: four facts about a place to eat, told in one sentence. Stands for E2E and other data-to-text sets."""

from __future__ import annotations

import random

from peftbench.records import Example
from peftbench.tasks.draw import draw
from peftbench.tasks.words import AREAS, FOODS, PLACES, PRICES

LEVELS = tuple(PRICES)


def examples(split: str, seed: int = 0) -> list[Example]:
    """Return the split's examples; ``slots`` are the four facts as the sentence words them."""
    return draw(_example, split, "describe", seed)


def _example(rng: random.Random) -> Example:
    place, food, area = rng.choice(PLACES), rng.choice(FOODS), rng.choice(AREAS)
    level = rng.choice(LEVELS)
    price = PRICES[level]
    target = f"{place} has {price} {food} and is in the {area}."
    others = (f"{place} is in the {area} and has {price} {food}.", f"In the {area}, {place} has {price} {food}.")
    return Example(
        prompt=f"name: {place} | food: {food} | area: {area} | price: {level} | text:",
        target=target,
        references=(target, *others),
        slots=(place, food, area, price),
    )
