"""Where a training setting is from: the method's block, ``train:``, the profile or the method's recipe, the default."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from peftbench.methods import Method, default_rates, profiles
from peftbench.models import stored
from peftbench.suite.document import AMOUNTS
from peftbench.suite.records import Block, Suite
from peftbench.suite.schema import SEARCH, TRAIN

LONGEST_RUN = 1000
"""Most optimizer steps of one pass over the data, unless the suite gives the length of training."""
GIVEN, PAPER, RECIPE, DEFAULT = "suite", "paper", "recipe", "default"
"""The layers, the first that gives a setting first."""
RULE, SEARCHED = "rule", "search"
"""What else a learning rate can be from."""

Axes = Mapping[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Filled:
    """The training settings of one cell, with what follows from the base model and the data."""

    settings: Mapping[str, Any]
    rates: tuple[float, ...] = ()
    """The candidate learning rates of a search; empty if the cell has one rate."""
    source: str | None = None
    """Where the learning rate is from; None if nothing trains."""
    reasons: Mapping[str, str] | None = None
    """Setting -> why it has its value; None if nothing follows from base and data."""


def _layers(method: Method, block: Block, suite: Suite) -> Iterable[tuple[str, Axes]]:
    """Yield each layer's name and the training settings that it gives."""
    recipe = profiles.training(suite.profile, method.name, method.training)
    published = profiles.recipe(suite.profile, method.name) is not None
    yield GIVEN, {key: values for key, values in block.axes.items() if key in TRAIN}
    yield GIVEN, suite.train
    yield PAPER if published else RECIPE, {key: (value,) for key, value in recipe.items()}
    yield DEFAULT, {key: (setting.default,) for key, setting in TRAIN.items()}


def training_axes(method: Method, block: Block, suite: Suite) -> dict[str, tuple[Any, ...]]:
    """Return the values of every training setting, each from the first layer that gives it."""
    layers = [layer for _, layer in _layers(method, block, suite)]
    chosen = next(found for layer in layers if (found := amount(layer)))
    axes: dict[str, tuple[Any, ...]] = {}
    for layer in layers:
        for key, values in layer.items():
            if key not in AMOUNTS:
                axes.setdefault(key, values)
            elif key in chosen:
                axes.setdefault(key, chosen[key])
    return {**dict.fromkeys(AMOUNTS, (None,)), **axes}


def amount(layer: Axes) -> dict[str, tuple[Any, ...]]:
    """Return which of steps, epochs, tokens and seconds a layer gives; empty if none."""
    return {key: layer[key] for key in AMOUNTS if any(value is not None for value in layer.get(key, ()))}


def origin(key: str, method: Method, block: Block, suite: Suite) -> str:
    """Return the layer that a training setting is from; ``steps`` stands for any length of training.

    A suite that asks for a search gives no learning rate.
    """
    for name, layer in _layers(method, block, suite):
        if key == "steps":
            if amount(layer):
                return name
        elif key in layer and not (name == GIVEN and layer[key] in ((None,), (SEARCH,))):
            return name
    return DEFAULT


def precision(method: Method, block: Block, suite: Suite) -> tuple[str, ...]:
    """Return the precisions of a block: its own, those of the suite, or the default for the method and base model."""
    if "precision" in block.axes:
        return block.axes["precision"]
    if "precision" in suite.axes:
        return suite.axes["precision"]
    larger = suite.defaults.precision if suite.defaults else None
    if larger == stored.NAME:  # of every method: it has no other weights
        return (larger,)
    return (
        larger if larger and leaves_precision(method) and larger in method.precisions else method.default_precision,
    )


def leaves_precision(method: Method) -> bool:
    """Return whether a method's default precision is that of small base models."""
    return method.default_precision == "fp32"


def fill(
    method: Method,
    block: Block,
    suite: Suite,
    cell: tuple[int | None, Mapping[str, Any], Mapping[str, Any]],
    listed: tuple[float, ...],
) -> Filled:
    """Return a cell's training settings with the defaults that follow from the base model and the data.

    Args:
        method: the method, which trains.
        block: its block.
        suite: the suite, with its ``defaults`` if they are known.
        cell: rank; options, with LoRA's alpha as a number; training settings.
        listed: the learning rates in the block or ``train:`` if there are several, for a search.
    """
    rank, options, given = cell
    settings, known = dict(given), suite.defaults
    why = dict(known.reasons) if known else {}
    used: list[str] = []
    if known and known.examples is not None and origin("steps", method, block, suite) == DEFAULT:
        settings["steps"] = min(LONGEST_RUN, max(1, -(-known.examples // settings["batch_size"])))
        used.append("steps")
    if known and known.sequence_length and origin("sequence_length", method, block, suite) == DEFAULT:
        settings["sequence_length"] = known.sequence_length
        used.append("sequence_length")
    if known and known.precision and not ("precision" in block.axes or "precision" in suite.axes):
        used += ["precision"] * (known.precision == stored.NAME or leaves_precision(method))
    source = GIVEN
    if settings["learning_rate"] in (None, SEARCH) or origin("learning_rate", method, block, suite) != GIVEN:
        rate, source = _default_rate(method, block, suite, rank, options)
        if settings["learning_rate"] == SEARCH and rate and not listed:
            listed = default_rates.candidates(rate)
            why["learning_rate"] = f"searched around {rate:g}, the {why.get('learning_rate', 'default')}"
            used += ["learning_rate"] * (not suite.smoke)  # a smoke test searches nothing
        elif source == RULE:
            used.append("learning_rate")
        settings["learning_rate"] = rate
    reasons = {key: why[key] for key in used if key in why}
    return Filled(settings, listed, SEARCHED if listed else source, reasons or None)


def _default_rate(
    method: Method, block: Block, suite: Suite, rank: int | None, options: Mapping[str, Any]
) -> tuple[float | None, str]:
    """Return the learning rate that the suite does not give, and where it is from."""
    name = origin("learning_rate", method, block, suite)
    own = profiles.training(suite.profile, method.name, method.training).get("learning_rate")
    if name == RECIPE and suite.defaults and suite.defaults.width:
        width = default_rates.EXPERTS_WIDTH if suite.defaults.experts else suite.defaults.width
        found = default_rates.rate(method.name, options, rank, width)
        return (own, RECIPE) if found is None else (found, RULE)
    return own, name
