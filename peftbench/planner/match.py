"""Choose ranks that match a budget of trainable parameters. torch is imported only in the process that counts."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from typing import Any

from peftbench.errors import Unsupported, UserError
from peftbench.methods import Method, method_of
from peftbench.models import find, quiet_imports
from peftbench.records import Trial
from peftbench.suite.expand import expand
from peftbench.suite.records import Block, Suite
from peftbench.suite.schema import TRAIN

FAR = 0.2
"""Relative distance from the budget above which a method is reported as not matched."""
_MOST = 2**20
"""Largest rank to try if the base model sets no limit."""


@dataclass(frozen=True)
class Matched:
    """The size of one block."""

    cell: str
    """The name of its cells, without the precision."""
    parameters: int | None
    """Its trainable parameters; None if they could not be counted."""
    reason: str = ""
    """Why its size was not chosen; empty if it was."""


@dataclass(frozen=True)
class Match:
    """A suite with its ranks chosen, and how close each method comes to the budget."""

    suite: Suite
    budget: int
    found: tuple[Matched, ...]


def miss(parameters: float | None, budget: int) -> str:
    """Return the relative difference of a count from the budget, as "+1.2 %"."""
    return "unknown" if parameters is None else f"{100 * (parameters / budget - 1) + 0.0:+.1f} %".replace("-0.0", "0.0")


def far(parameters: float | None, budget: int) -> bool:
    """Whether a count differs from the budget by more than ``FAR``."""
    return parameters is None or abs(parameters / budget - 1) > FAR


def apply(suite: Suite) -> Match:
    """Return a suite with each method's rank chosen, with parameters counted in another process.

    Raises:
        UserError: if the base model's config cannot be read, or the method that defines the budget cannot be counted.
    """
    # spawned, since the parent of a run must not import torch
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(solve, suite).result()


def solve(suite: Suite) -> Match:
    """Return a suite with each method's rank chosen, counted in this process."""
    quiet_imports.quantizers()
    from peftbench.planner.predict import load_config

    warnings.simplefilter("ignore")
    config = load_config(suite.base, find.config_folder(suite.base))
    budget = _budget(suite, config)
    blocks, found = [], []
    for block in (part for whole in suite.blocks for part in _combinations(whole)):
        sized, matched = _with_rank(suite, block, config, budget)
        blocks.append(sized)
        found += [matched] if matched else []
    return Match(replace(suite, blocks=tuple(blocks), match=None), budget, tuple(found))


def _combinations(block: Block) -> Iterator[Block]:
    """Yield a block for each combination of the method's options, since each may need another rank."""
    fixed = {key: values for key, values in block.axes.items() if key == "precision" or key in TRAIN}
    counted = {key: values for key, values in block.axes.items() if key not in fixed}
    for values in itertools.product(*counted.values()):
        chosen = {key: (value,) for key, value in zip(counted, values, strict=True)}
        yield replace(block, axes={key: chosen.get(key, block.axes[key]) for key in block.axes})


def _budget(suite: Suite, config: Any) -> int:
    """Return the budget in parameters: the given number, or what the given method trains at the given rank."""
    match = suite.match
    assert match is not None
    if match.parameters is not None:
        return match.parameters
    named = next((part for b in suite.blocks if b.method == match.method for part in _combinations(b)), None)
    block = named or Block(match.method, f"{suite.display_path}: match", {})
    try:
        return _count(_trial(suite, block, match.rank), config)
    except (Unsupported, UserError) as error:
        raise UserError(
            f"{suite.display_path}: match.trainable_parameters: {match.method} cannot be counted: {error}"
        ) from None


def _with_rank(suite: Suite, block: Block, config: Any, budget: int) -> tuple[Block, Matched | None]:
    """Return a block with its rank chosen, and its size; None instead of the size for the untuned base model."""
    method = _method(block)
    if not method.trains:
        return block, None
    given = method.rank_meaning is not None and method.rank_key in block.axes
    try:
        if method.rank_meaning is None or given:
            trial = _trial(suite, block, None)
            why = f"the suite gives its {method.rank_key}" if given else "it has no rank"
            return block, Matched(_name(trial), _count(trial, config), why)
        rank = nearest_rank(
            cache(lambda rank: _count(_trial(suite, block, rank), config)), budget, _largest_rank(suite, block, config)
        )
        trial = _trial(suite, block, rank)
        sized = replace(block, axes={**block.axes, method.rank_key: (rank,)})
        return sized, Matched(_name(trial), _count(trial, config))
    except (Unsupported, UserError) as error:
        return block, Matched(_name(_trial(suite, block, None)), None, str(error))


def nearest_rank(count: Callable[[int], int], budget: int, most: int) -> int:
    """Return the rank whose parameter count is nearest to a budget, by linear extrapolation, else by bisection.

    Args:
        count: trainable parameters at a rank.
        budget: in parameters.
        most: largest rank to try.
    """
    first, step = count(1), count(min(2, most)) - count(1)
    if step < 0:  # some tuners train fewer parameters at a larger rank
        ranks = [2**power for power in range(most.bit_length())]
        return min(ranks, key=lambda rank: (abs(count(rank) - budget), rank))
    if budget <= first:
        return 1
    guess = min(max(2, round(1 + (budget - first) / step)), most) if step else min(2, most)
    if step and count(guess) == first + step * (guess - 1):
        return min((guess, guess - 1), key=lambda rank: abs(count(rank) - budget))
    low, high = 1, guess
    while count(high) < budget and high < most:
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= budget else (low, middle)
    return _smallest(count, min((low, high), key=lambda rank: abs(count(rank) - budget)))


def _smallest(count: Callable[[int], int], rank: int) -> int:
    """Return the smallest rank with the same count as this one; some tuners' sizes stop growing below it."""
    low, high = 0, rank
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if count(middle) == count(rank) else (middle, high)
    return high


def _largest_rank(suite: Suite, block: Block, config: Any) -> int:
    """Return the largest rank: the virtual tokens that fit into the remaining context, or else the model's width."""
    from peftbench.methods import context_length

    trial = _trial(suite, block, 1)
    assert trial.training is not None
    free = context_length.remaining(trial, config) if _method(block).virtual_tokens else None
    needed = max(trial.evaluation.max_length, trial.training.sequence_length)
    if free is None:
        return int(getattr(config.get_text_config(), "hidden_size", _MOST))
    return max(1, free + 1 - needed)


def _trial(suite: Suite, block: Block, rank: int | None) -> Trial:
    """Return a trial of a block at the given rank, or at the block's own if None."""
    axes = block.axes if rank is None else {**block.axes, _method(block).rank_key: (rank,)}
    alone = replace(suite, blocks=(replace(block, axes=axes),), seeds=suite.seeds[:1], only=(), match=None)
    return expand(alone, "cpu")[0]


def _method(block: Block) -> Method:
    return method_of(block.method, {key: values[0] for key, values in block.axes.items()})


def _count(trial: Trial, config: Any) -> int:
    from peftbench.planner import trainable_count

    return trainable_count.trainable(trial, config)


def _name(trial: Trial) -> str:
    return trial.cell.removesuffix(f" {trial.precision}")
