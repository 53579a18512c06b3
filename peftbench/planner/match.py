"""Ranks that meet one budget of trainable parameters. torch is imported only in the process that counts."""

from __future__ import annotations

import itertools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from typing import Any

from peftbench.errors import Unsupported, UserError
from peftbench.methods import Method, method_of
from peftbench.models import find
from peftbench.records import Trial
from peftbench.suite.expand import expand
from peftbench.suite.records import Block, Suite
from peftbench.suite.schema import TRAIN

FAR = 0.2
"""Share of the budget by which a method may miss it before that is told apart."""
_MOST = 2**20
"""Largest rank that is tried."""


@dataclass(frozen=True)
class Matched:
    """One block's size."""

    cell: str
    """Its name, without the precision."""
    parameters: int | None
    """What it trains; None where that could not be counted."""
    reason: str = ""
    """Why its size was not chosen; empty if it was."""


@dataclass(frozen=True)
class Match:
    """A suite with its ranks, and how near they come."""

    suite: Suite
    budget: int
    found: tuple[Matched, ...]


def miss(parameters: float | None, budget: int) -> str:
    """Return by how much a count misses the budget, as "+1.2 %"."""
    return "unknown" if parameters is None else f"{100 * (parameters / budget - 1) + 0.0:+.1f} %".replace("-0.0", "0.0")


def far(parameters: float | None, budget: int) -> bool:
    """Whether a count misses the budget by more than ``FAR``."""
    return parameters is None or abs(parameters / budget - 1) > FAR


def apply(suite: Suite) -> Match:
    """Return a suite with each method's rank chosen, counted in a process of its own.

    Raises:
        UserError: if the base's config cannot be read, or what the suite gives as measure cannot be counted.
    """
    # the parent of a run never imports torch, and a forked child would have to
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(solve, suite).result()


def solve(suite: Suite) -> Match:
    """Return a suite with each method's rank chosen, counted in this process."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # says at import which kernels it lacks
    from peftbench.planner.predict import load_config

    warnings.simplefilter("ignore")
    config = load_config(suite.base, find.config_folder(suite.base))
    budget = _budget(suite, config)
    blocks, found = [], []
    for block in (part for whole in suite.blocks for part in _parts(whole)):
        sized, matched = _sized(suite, block, config, budget)
        blocks.append(sized)
        found += [matched] if matched else []
    return Match(replace(suite, blocks=tuple(blocks), match=None), budget, tuple(found))


def _parts(block: Block) -> Iterator[Block]:
    """Yield a block for each combination of its own options, as each may need another rank."""
    fixed = {key: values for key, values in block.axes.items() if key == "precision" or key in TRAIN}
    counted = {key: values for key, values in block.axes.items() if key not in fixed}
    for values in itertools.product(*counted.values()):
        chosen = {key: (value,) for key, value in zip(counted, values, strict=True)}
        yield replace(block, axes={key: chosen.get(key, block.axes[key]) for key in block.axes})


def _budget(suite: Suite, config: Any) -> int:
    """Return the budget: as given, or what the suite's measure of it trains."""
    match = suite.match
    assert match is not None
    if match.parameters is not None:
        return match.parameters
    named = next((part for b in suite.blocks if b.method == match.method for part in _parts(b)), None)
    block = named or Block(match.method, f"{suite.display_path}: match", {})
    try:
        return _count(_trial(suite, block, match.rank), config)
    except (Unsupported, UserError) as error:
        raise UserError(
            f"{suite.display_path}: match.trainable_parameters: {match.method} cannot be counted: {error}"
        ) from None


def _sized(suite: Suite, block: Block, config: Any, budget: int) -> tuple[Block, Matched | None]:
    """Return a block with its rank and what that trains; None for the untuned base."""
    method = _method(block)
    if not method.trains:
        return block, None
    given = method.rank_meaning is not None and method.rank_key in block.axes
    try:
        if method.rank_meaning is None or given:
            trial = _trial(suite, block, None)
            why = f"the suite gives its {method.rank_key}" if given else "it has no rank"
            return block, Matched(_name(trial), _count(trial, config), why)
        rank = nearest(
            cache(lambda rank: _count(_trial(suite, block, rank), config)), budget, _most(suite, block, config)
        )
        trial = _trial(suite, block, rank)
        sized = replace(block, axes={**block.axes, method.rank_key: (rank,)})
        return sized, Matched(_name(trial), _count(trial, config))
    except (Unsupported, UserError) as error:
        return block, Matched(_name(_trial(suite, block, None)), None, str(error))


def nearest(count: Callable[[int], int], budget: int, most: int) -> int:
    """Return the rank whose count comes nearest to a budget: on the line through two counts, else by bisection.

    Args:
        count: parameters at a rank, growing with it.
        budget: what to come near to.
        most: largest rank.
    """
    first, step = count(1), count(min(2, most)) - count(1)
    if step < 0:  # some tuners train less at a larger rank
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
    """Return the smallest rank that trains as much as this one: some tuners' sizes end before the rank does."""
    low, high = 0, rank
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if count(middle) == count(rank) else (middle, high)
    return high


def _most(suite: Suite, block: Block, config: Any) -> int:
    """Return the largest rank: of virtual tokens, what the base's context leaves room for; else the base's width."""
    from peftbench.methods import context_length

    trial = _trial(suite, block, 1)
    assert trial.training is not None
    free = context_length.remaining(trial, config) if _method(block).virtual_tokens else None
    needed = max(trial.evaluation.max_length, trial.training.sequence_length)
    if free is None:
        return int(getattr(config.get_text_config(), "hidden_size", _MOST))
    return max(1, free + 1 - needed)


def _trial(suite: Suite, block: Block, rank: int | None) -> Trial:
    """Return a trial of a block, at a rank of its own or the given one."""
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


def told(counts: Sequence[tuple[str, bool, float]], budget: int) -> Iterator[str]:
    """Yield notes for a table: how far its cells are from the budget that their ranks were chosen for.

    Args:
        counts: name of a cell, whether it has a size, and what it trains.
        budget: in parameters.
    """
    near = [f"{name} {miss(n, budget)}" for name, sized, n in counts if sized and not far(n, budget)]
    yield f"Ranks were chosen for {budget:,} trainable parameters: {', '.join(near) or 'none comes near'}."
    off = [f"{name} ({n / budget:.3g} times)" for name, sized, n in counts if sized and far(n, budget)]
    if off:
        yield f"Farther than {FAR:.0%} from that: {', '.join(off)}."
    without = [f"{name} ({n / budget:.3g} times)" for name, sized, n in counts if not sized]
    if without:
        yield f"Without a size to choose: {', '.join(without)}."
