"""At which depths a model is traced so that what is found is exact at its own."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peftbench.models.layers import decoder_layers
from peftbench.planner import fake
from peftbench.records import Trial

_UNADAPTED = 2
"""Lowest layers that LLaMA-Adapter leaves as they are by default."""


@dataclass(frozen=True)
class Depths:
    """Which depths are traced, and which windows are the same in both."""

    own: int
    traced: tuple[int, ...]
    low: int = 0
    """Blocks from the lowest that are matched by their place from there."""
    high: int = 0
    """Blocks from the topmost that are matched by their place from there."""


def depths(trial: Trial, config: Any) -> Depths:
    """Return at which depths to trace a trial: two where they tell all, else its own."""
    own = config.get_text_config().num_hidden_layers
    if _names_layers(trial.options) or (trial.options.get("layers") or 0) > own:  # the method's own message comes
        return Depths(own, (own,))
    pattern = _pattern(_kinds(trial, config, own))
    if pattern is None:
        return Depths(own, (own,))
    prefix, period = pattern
    low, high = prefix + 1 + period, 1 + period  # the end itself, and what stands for all between
    if trial.method == "llama_adapter" or trial.options.get("layers"):
        top = trial.options.get("layers") or own - _UNADAPTED
        few = min(top, own - top)
        low, high = (low, high + few) if few == top else (low + few, high)
    # one block may stand for what is between at both ends
    first = low + high - period + (own - low - high) % period
    return Depths(own, (own,)) if own <= first + period else Depths(own, (first, first + period), low, high)


def at(trial: Trial, config: Any, depth: int) -> tuple[Trial, Any]:
    """Return a trial and its config at another depth."""
    made, text = copy.deepcopy(config), config.get_text_config()
    own = text.num_hidden_layers
    changed = made.get_text_config()
    for name, value in _lists(text, own).items():
        setattr(changed, name, list(value[:depth]))
    changed.num_hidden_layers = depth
    layers = trial.options.get("layers")
    if isinstance(layers, int) and own - layers < layers:  # the frozen ones stay as they are, as they are fewer
        trial = replace(trial, options={**trial.options, "layers": layers - (own - depth)})
    return trial, made


def _lists(config: Any, own: int) -> Mapping[str, Sequence[Any]]:
    """Return what a config says layer by layer."""
    return {n: v for n, v in vars(config).items() if isinstance(v, list | tuple) and len(v) == own}


def _kinds(trial: Trial, config: Any, own: int) -> list[int]:
    """Return a number for every layer, equal where the config says the same of both and the parameters are alike.

    Many configs give a pattern as a number (every second block has experts), so the blocks themselves are looked at.
    """
    made = fake.without_weights(trial, config)
    alike = [[(n, p.shape, p.dtype) for n, p in block.named_parameters()] for block in decoder_layers(made)]
    layers = list(zip(alike, *_lists(config.get_text_config(), own).values(), strict=True))
    return [layers.index(layer) for layer in layers]


def _pattern(kinds: Sequence[int]) -> tuple[int, int] | None:
    """Return how many lowest layers stand apart, and after how many the pattern of the others comes again.

    Of several answers the one that needs the fewest layers; None if there is none.
    """
    own = len(kinds)
    found = [
        (prefix, period)
        for prefix in range(own)
        for period in range(1, (own - prefix) // 2 + 1)
        if all(kinds[i] == kinds[i + period] for i in range(prefix, own - period))
    ]
    return min(found, key=lambda pattern: pattern[0] + 2 * pattern[1], default=None)


def _names_layers(options: Mapping[str, Any]) -> bool:
    """Whether options speak of layers by number: then no other depth shows what they do at this one."""
    named = {k: v for k, v in options.items() if any(word in k for word in ("modules", "pattern", "parameters"))}
    return bool(re.search(r"\d", repr(named))) or any("layer" in k and k != "layers" and v for k, v in options.items())
