"""The loss on general text after training: its difference between two nights, for new seeds and new texts.

A side's loss is a ratio of sums over texts, D = sum of nats / sum of tokens. Its error is that of linearized values per
text, (nats - D tokens) / mean tokens + D (Cochran 1977, Sampling Techniques, chapter 6), in the crossed model of seeds
and texts; texts are paired between the sides, and seeds if both have the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from peftbench.results.crossed_effects.model import LARGEST, Array, Outcomes, difference
from peftbench.results.watch.night import seed_of
from peftbench.results.watch.quantities import Seed
from peftbench.results.watch.scores import Difference, of_estimate, over_seeds

if TYPE_CHECKING:
    import pandas as pd

WITHIN = 0.01
"""Change of the loss, as a fraction, within which it is called unchanged if its interval lies within: 1 %."""


def between(
    old: tuple[Mapping[Seed, float], pd.DataFrame], new: tuple[Mapping[Seed, float], pd.DataFrame]
) -> Difference | None:
    """Return the difference of a cell's loss, new minus old, in nats per token; None if its noise is not known.

    With one seed per side it is not: another training seed shifts the loss of all texts together.

    Args:
        old: the values by seed, and the ``ok`` rows.
        new: the same of the new side.
    """
    seeds = [seed for seed in old[0] if seed in new[0]]
    paired = len(seeds) == len(old[0]) == len(new[0])
    sides = [_outcomes(rows, seeds if paired else list(values)) for values, rows in (old, new)]
    if sides[0] is None or sides[1] is None or sides[0].examples != sides[1].examples:
        return over_seeds(old[0], new[0])
    if min(sides[0].seeds, sides[1].seeds) < 2:
        return over_seeds(old[0], new[0])
    return of_estimate(difference(sides[0], sides[1], paired=paired))


def _outcomes(rows: pd.DataFrame, seeds: list[Seed]) -> Outcomes | None:
    """Return linearized losses, (seeds, texts), in the order of the seeds; None if they are not stored."""
    if "retention_json" not in rows:
        return None
    by_seed = {seed_of(row): _read(row["retention_json"]) for row in rows.to_dict("records")}
    found = [by_seed.get(seed) or {} for seed in seeds]
    tokens = found[0].get("tokens") if found else None
    if not isinstance(tokens, list) or len(tokens) < 2 or any(one.get("tokens") != tokens for one in found):
        return None
    nats = [one.get("after") for one in found]
    if not all(isinstance(each, list) and len(each) == len(tokens) for each in nats):
        return None
    after, weights = np.asarray(nats, dtype=float), np.asarray(tokens, dtype=float)
    if weights.sum() <= 0 or not (np.abs(after) <= LARGEST).all():
        return None
    return Outcomes.of(_linear(after, weights))


def _linear(after: Array, tokens: Array) -> Array:
    rate = float(after.mean(axis=0).sum() / tokens.sum())
    found: Array = (after - rate * tokens) / tokens.mean() + rate
    return found


def _read(text: Any) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
