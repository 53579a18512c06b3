"""Proof that examples packed into one row are as good as alone: none sees another, and each begins at place 0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from peftbench import layout
from peftbench.causality import NOISE, influence
from peftbench.data import Encoded, collate, pack
from peftbench.errors import Unsupported
from peftbench.model import autocast
from peftbench.train import Learner

_DISTANCE = 0.1
"""Largest distance of packed logits from those alone, as a share of the latter: rounding in the lowest precision gives
less, learned places that do not begin again for each example give more."""
_INSTEAD = "leave packing out, or give the cell packing: false"


def check(learner: Learner, plan: Sequence[Sequence[Encoded]]) -> None:
    """See that the second example of a row is computed as it is alone, where examples share a row at all.

    Two things are looked at: how much the first example's tokens bear on the logits at the second's end, which is
    nothing where attention keeps them apart, and how far the second's logits are from those that it has alone.

    Raises:
        Unsupported: if the model mixes the examples of a row, or cannot be told where they begin.
    """
    row = next(
        (r for step in plan for rows in layout.forward_passes(step, learner.training) for r in rows if r[1:]), ()
    )
    if not row:
        return
    name, first = type(learner.model).__name__, len(row[0].ids)
    pair = pack([row[:2]], learner.pad_id).to(learner.device)
    try:
        found = influence(learner.model, pair.inputs, -1, learner.precision, learner.device)
    except TypeError as error:
        raise Unsupported(f"packing: {name} takes no places of tokens ({error}); {_INSTEAD}") from None
    if found is not None and found[:first].max() > NOISE * found[first:].max():
        raise Unsupported(
            f"packing: {name} mixes the examples of a row (one changes what is said of the next); {_INSTEAD}"
        )
    alone = collate(row[1:2], learner.pad_id).to(learner.device)
    with torch.no_grad(), autocast(learner.precision, learner.device):
        together, single = (_logits(learner.model, batch)[-len(row[1].ids) :] for batch in (pair, alone))
    distance = float((together - single).norm() / single.norm())
    if distance > _DISTANCE:
        raise Unsupported(
            f"packing: {name} says something else of an example in a shared row than alone (its logits are "
            f"{distance:.0%} away): its places do not begin again; {_INSTEAD}"
        )


def _logits(model: Any, batch: Any) -> torch.Tensor:
    """Return the only row's logits, (t, v), without what a method adds before the data."""
    return model(**batch.inputs, use_cache=False).logits[0].float()
