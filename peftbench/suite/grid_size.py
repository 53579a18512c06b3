"""How many trials a suite's grid has, counted before it is expanded: every list multiplies all others."""

from __future__ import annotations

import math

from peftbench.errors import UserError
from peftbench.methods import METHODS
from peftbench.suite.records import Block, Suite


def check(suite: Suite) -> None:
    """Refuse a grid, or a learning-rate search, of more trials than the suite allows.

    Raises:
        UserError: with the number of trials and the block that has most of them.
    """
    sizes = [(_cells(block, suite), block) for block in suite.blocks]
    # the candidates of a search take the place of the rates, with seeds of their own
    seeds = max(len(suite.seeds), suite.search.seeds if suite.search else 1)
    total = sum(cells * (seeds if METHODS[block.method].trains else 1) for cells, block in sizes)
    if total > suite.most_trials:
        cells, block = max(sizes, key=lambda size: size[0])
        raise UserError(
            f"{suite.display_path}: the grid has up to {total:,} trials ({cells:,} cells in {block.where}); allowed: "
            f"at most {suite.most_trials:,}, or as many as the key 'most_trials' allows"
        )


def _cells(block: Block, suite: Suite) -> int:
    """Return the number of a block's cells: the product of the lengths of its own lists and of the suite's."""
    method = METHODS[block.method]
    lists = {"precision": suite.axes.get("precision", ()), "rank": suite.axes.get("rank", ())}
    if method.rank_meaning is None:
        del lists["rank"]
    elif method.rank_key in block.axes:
        lists["rank"] = ()
    lists |= {**suite.train, "devices": suite.devices} if method.trains else {}
    lists |= block.axes
    return math.prod(max(1, len(values)) for values in lists.values())
