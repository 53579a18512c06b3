"""Proof that examples packed into one row are as good as alone: none sees another, and each begins at place 0."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from peftbench.errors import Unsupported
from peftbench.models.causality import NOISE, influence
from peftbench.models.load import autocast
from peftbench.training.batches import Encoded, collate, pack
from peftbench.training.loop import Learner

_FEW = 16
"""Tokens of each example that gradients are taken through: what leaks from one to the next is largest at the border,
and activations stay few."""
_DISTANCE = 0.1
"""Largest distance of packed logits from those alone, as a share of the latter: rounding in the lowest precision gives
less, learned places that do not begin again for each example give more."""
_INSTEAD = "leave packing out, or give the cell packing: false"


def check(learner: Learner, plan: Sequence[Sequence[Encoded]]) -> None:
    """See that the second of two examples in a row is computed as it is alone.

    Two things are looked at: how much the first one's tokens bear on the logits at the second's first and last place,
    which is nothing where attention keeps them apart, and how far the second's logits are from those that it has alone.

    Args:
        learner: what trains.
        plan: the steps' examples, of which the first two are taken, cut to half a row each.

    Raises:
        Unsupported: if the model mixes the examples of a row, or cannot be told where they begin.
    """
    name, half = _name(learner.model), max(1, learner.training.sequence_length // 2)
    first, *others = itertools.islice(itertools.chain(*plan), 2)
    pair = [_cut(e, half) for e in (first, others[0] if others else first)]
    few = [_cut(e, _FEW) for e in pair]
    border = len(few[0].ids)
    short = pack([few], learner.pad_id).to(learner.device)
    for place in (border, -1):
        try:
            found = influence(learner.model, short.inputs, place, learner.precision, learner.device)
        except TypeError as error:
            raise Unsupported(f"packing: {name} takes no places of tokens ({error}); {_INSTEAD}") from None
        if found is not None and found[:border].max() > NOISE * found[border:].max():
            raise Unsupported(
                f"packing: {name} mixes the examples of a row (one changes what is said of the next); {_INSTEAD}"
            )
    for both in (few, pair):
        distance = _distance(learner, both)
        if distance > _DISTANCE:
            raise Unsupported(
                f"packing: {name} says something else of an example in a shared row than alone (its logits are "
                f"{distance:.0%} away): its places do not begin again; {_INSTEAD}"
            )


def _name(model: Any) -> str:
    """Return what the base is, below what a method put around it."""
    return type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__


def _cut(example: Encoded, tokens: int) -> Encoded:
    return replace(example, ids=example.ids[:tokens])


@torch.no_grad()
def _distance(learner: Learner, pair: Sequence[Encoded]) -> float:
    """Return how far the second example's logits are from those alone, as a share of the latter; of tokens the median.

    Not the mean: in a mixture of experts, rounding may send a token to another one.
    """
    together, alone = (
        _logits(learner, batch)[-len(pair[1].ids) :]
        for batch in (pack([pair], learner.pad_id), collate(pair[1:], learner.pad_id))
    )
    return float(((together - alone).norm(dim=-1) / alone.norm(dim=-1)).median())


def _logits(learner: Learner, batch: Any) -> torch.Tensor:
    """Return the only row's logits, (t, v), with what a method adds before the data."""
    learner.model.eval()
    with autocast(learner.precision, learner.device):
        return learner.model(**batch.to(learner.device).inputs, use_cache=False).logits[0].float()
