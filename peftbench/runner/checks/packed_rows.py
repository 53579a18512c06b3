"""Sanity check of packing: examples in one row do not see each other, and each starts at position 0."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from peftbench.errors import Unsupported
from peftbench.models.causality import NOISE, influence
from peftbench.models.load import autocast
from peftbench.training.batches import collate, pack
from peftbench.training.encoded import Encoded
from peftbench.training.loop import Learner

_FEW = 16
"""Tokens of each example through which gradients are computed: a leak is largest at the border between examples, and
few tokens need few activations."""
_DISTANCE = 0.1
"""Largest relative distance of an example's logits in a shared row from its logits alone. Rounding in the lowest
precision gives less; learned positions that do not restart with each example give more."""
_INSTEAD = "remove packing from the suite, or set packing: false for this cell"


def check(learner: Learner, step_examples: Sequence[Sequence[Encoded]]) -> None:
    """Check that the model computes the second of two examples in a row as it computes that example alone.

    Two things are checked. The influence of the first example's tokens on the logits at the second one's first and last
    position must be zero, up to rounding. And the second one's logits must be close to those that it has alone.

    Args:
        learner: the model, ready to train.
        step_examples: the examples of each step; the first two are used, cut to half a row each.

    Raises:
        Unsupported: if the model mixes the examples of a row, or does not accept positions that mark where they start.
    """
    name, half = _name(learner.model), max(1, learner.training.sequence_length // 2)
    first, *others = itertools.islice(itertools.chain(*step_examples), 2)
    pair = [_cut(e, half) for e in (first, others[0] if others else first)]
    few = [_cut(e, _FEW) for e in pair]
    border = len(few[0].ids)
    short = pack([few], learner.pad_id).to(learner.device)
    for position in (border, -1):
        try:
            found = influence(learner.model, short.inputs, position, learner.precision, learner.device)
        except TypeError as error:
            raise Unsupported(f"packing: {name} does not accept position ids ({error}); {_INSTEAD}") from None
        if found is not None and found[:border].max() > NOISE * found[border:].max():
            raise Unsupported(
                f"packing: {name} mixes the examples of a row (one changes the logits of the next); {_INSTEAD}"
            )
    for both in (few, pair):
        distance = _distance(learner, both)
        if distance > _DISTANCE:
            raise Unsupported(
                f"packing: {name} computes other logits for an example in a shared row than for the example alone "
                f"({distance:.0%} apart): its positions do not restart with each example; {_INSTEAD}"
            )


def _name(model: Any) -> str:
    """Return the class name of the base model, without a wrapper of the method."""
    return type(model.get_base_model() if hasattr(model, "get_base_model") else model).__name__


def _cut(example: Encoded, tokens: int) -> Encoded:
    return replace(example, ids=example.ids[:tokens])


@torch.no_grad()
def _distance(learner: Learner, pair: Sequence[Encoded]) -> float:
    """Return the relative distance of the second example's logits from those that it has alone, median over tokens.

    The mean would not do: in a mixture of experts, rounding may route single tokens to another expert.
    """
    together, alone = (
        _logits(learner, batch)[-len(pair[1].ids) :]
        for batch in (pack([pair], learner.pad_id), collate(pair[1:], learner.pad_id))
    )
    return float(((together - alone).norm(dim=-1) / alone.norm(dim=-1)).median())


def _logits(learner: Learner, batch: Any) -> torch.Tensor:
    """Return the logits of a batch's only row, (p + t, v), including p virtual tokens of the method."""
    learner.model.eval()
    with autocast(learner.precision, learner.device):
        return learner.model(**batch.to(learner.device).inputs, use_cache=False).logits[0].float()
