"""Choose the depths at which a model is traced, so that extrapolation to its own depth is exact."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peftbench.models.layers import decoder_layers, depth_field, stated_depth
from peftbench.planner import fake
from peftbench.records import Trial
from peftbench.training import turns

_UNADAPTED = 2
"""Lowest layers that LLaMA-Adapter leaves as they are by default."""


@dataclass(frozen=True)
class Depths:
    """The depths at which a model is traced, and which decoder layers correspond in both."""

    own: int
    """The model's own number of decoder layers; 1 if its config does not state it."""
    traced: tuple[int, ...]
    """Two depths, or the model's own depth alone."""
    low: int = 0
    """How many of the lowest layers correspond by their distance from the lowest."""
    high: int = 0
    """How many of the highest layers correspond by their distance from the highest."""


def depths(trial: Trial, config: Any) -> Depths:
    """Return the depths to trace a trial at: two smaller ones if they determine the model's own, else the own depth."""
    own = stated_depth(config)
    if own is None:
        return Depths(1, (1,))
    # a stage has a part of the layers; FSDP2 holds the gathered weights of neighbouring layers, of few layers all
    if trial.devices is not None and trial.devices.strategy in ("pp", "fsdp2"):
        return Depths(own, (own,))
    if trial.options.get("turns") == turns.BADAM and _of_a_turn(trial) > 1:  # the last block has what is left
        return Depths(own, (own,))
    if _names_layers(trial.options) or (trial.options.get("layers") or 0) > own:  # the method will raise its own error
        return Depths(own, (own,))
    try:
        pattern = _pattern(_kinds(trial, config, own))
    except LookupError:  # the layers are not found
        pattern = None
    if pattern is None:
        return Depths(own, (own,))
    prefix, period = pattern
    low, high = prefix + 1 + period, 1 + period  # the end itself, and a period of layers that represents all in between
    if trial.method == "llama_adapter" or trial.options.get("layers"):
        top = trial.options.get("layers") or own - _UNADAPTED
        few = min(top, own - top)
        low, high = (low, high + few) if few == top else (low + few, high)
    low, high = low + _of_a_turn(trial), high + _of_a_turn(trial)
    # one period may represent the layers in between for both ends
    first = low + high - period + (own - low - high) % period
    return Depths(own, (own,)) if own <= first + period else Depths(own, (first, first + period), low, high)


def in_turns(trial: Trial) -> bool:
    """Return whether a trial's decoder layers train in turns."""
    return bool(trial.options.get("turns", "none") != "none")


def _of_a_turn(trial: Trial) -> int:
    """Return how many of the lowest, and of the highest, layers a traced turn has; 0 without turns."""
    return (trial.options.get("turn_size") or turns.SIZES[trial.options["turns"]]) if in_turns(trial) else 0


def at(trial: Trial, config: Any, depth: int) -> tuple[Trial, Any]:
    """Return a trial and its config at another depth; as they are if the config states no depth."""
    made, text = copy.deepcopy(config), config.get_text_config()
    own = stated_depth(config)
    if own is None or own == depth:
        return trial, made
    changed = made.get_text_config()
    for name, value in _lists(text, own).items():
        setattr(changed, name, list(value[:depth]))
    setattr(changed, depth_field(changed), depth)
    layers = trial.options.get("layers")
    if (
        isinstance(layers, int) and own - layers < layers
    ):  # keep the number of layers without adapters, which is the smaller one
        trial = replace(trial, options={**trial.options, "layers": layers - (own - depth)})
    return trial, made


def _lists(config: Any, own: int) -> Mapping[str, Sequence[Any]]:
    """Return the settings that a config gives per layer, as lists."""
    return {n: v for n, v in vars(config).items() if isinstance(v, list | tuple) and len(v) == own}


def _kinds(trial: Trial, config: Any, own: int) -> list[int]:
    """Return a number per layer; it is equal for layers with equal settings and parameters of equal shapes that are
    computed again in the backward pass, or both are not.

    Many configs give a pattern as a number (every second layer has experts), so the layers themselves are compared.
    """
    made = fake.without_weights(trial, config)
    alike = [[(n, p.shape, p.dtype) for n, p in block.named_parameters()] for block in decoder_layers(made)]
    layers = list(zip(alike, *_lists(config.get_text_config(), own).values(), _recomputed(trial, own), strict=True))
    return [layers.index(layer) for layer in layers]


def _recomputed(trial: Trial, own: int) -> list[bool]:
    """Return of each layer whether it is computed again in the backward pass, if some are and some are not."""
    kind = trial.training.gradient_checkpointing if trial.training else False
    every = 1 if isinstance(kind, bool | str) else kind
    return [place % every == 0 for place in range(own)]


def _pattern(kinds: Sequence[int]) -> tuple[int, int] | None:
    """Return how many of the lowest layers precede a repeating pattern, and the pattern's period.

    If several answers exist, return the one that needs the fewest layers; None if there is none.
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
    """Whether options refer to layers by number; then only the model's own depth shows their effect."""
    named = {k: v for k, v in options.items() if any(word in k for word in ("modules", "pattern", "parameters"))}
    return bool(re.search(r"\d", repr(named))) or any("layer" in k and k != "layers" and v for k, v in options.items())
