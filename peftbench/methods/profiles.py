"""Profiles: the settings of methods that a suite does not give. No torch.

Profile ``paper`` uses the published settings of each method, and the profile of a table those of that table, for the
methods that it has (``recipes``). Profile ``shared`` uses the same training settings for all
methods. Without a profile, each method uses its own recipe (``Method.training``), tuned on the built-in base model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftbench.methods.recipes import RECIPES, Recipe
from peftbench.methods.record import shown

PAPER, SHARED = "paper", "shared"
PROFILES = (PAPER, SHARED, *(name for name in RECIPES if name != PAPER))
"""The names that a suite may give."""
PUBLISHED = RECIPES[PAPER]
"""Method -> its published settings, of profile ``paper``."""


def recipe(profile: str | None, method: str) -> Recipe | None:
    """Return a method's published settings in a profile; None if it has none there."""
    return RECIPES.get(profile or "", {}).get(method)


def training(profile: str | None, method: str, own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the training settings of a method's recipe under a profile.

    Args:
        profile: one of ``PROFILES``, or None.
        method: the method's name.
        own: the recipe in the method's record.
    """
    if profile == SHARED:
        return {}
    found = recipe(profile, method)
    return found.training if found else own


def rank(profile: str | None, method: str, own: int | None) -> int | None:
    """Return the rank of a method for which the suite gives none."""
    found = recipe(profile, method)
    return found.rank if found and found.rank else own


def options(profile: str | None, method: str) -> Mapping[str, Any]:
    """Return the options that a profile sets in place of the defaults in the method's record."""
    found = recipe(profile, method)
    return found.options if found else {}


def describe(found: Recipe) -> str:
    """Return a sentence on published settings: their values and source, what is not given or not adopted."""
    settings = {**found.training, **({} if found.rank is None else {"rank": found.rank}), **found.options}
    parts = [f"{', '.join(f'{name} {_shown(value)}' for name, value in settings.items())} ({found.of}; {found.source})"]
    if found.silent:
        parts.append(f"not given: {', '.join(found.silent)}")
    if found.beyond:
        parts.append(f"not adopted: {', '.join(found.beyond)}")
    return "; ".join(parts) + "."


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value)
