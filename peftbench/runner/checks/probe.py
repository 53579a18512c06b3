"""The few tokens on which a model is checked before and after training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from peftbench.records import Training
from peftbench.training import packing
from peftbench.training.batches import Batch, collate
from peftbench.training.encoded import Encoded, Row

_EXAMPLES = 4
"""Most examples."""
_TOKENS = 64
"""Most tokens of an example, from its beginning."""


def batch(step_examples: Sequence[Sequence[Encoded]], training: Training, pad_id: Any) -> Batch:
    """Return a batch that is contained in a forward pass of training, so that checks on it need no more memory.

    It has the beginnings of a few examples from the forward pass of the first step that has most tokens.

    Args:
        step_examples: the examples of each step.
        training: how a step is divided into forward passes.
        pad_id: id of the padding token.
    """
    rows = max(packing.forward_passes(step_examples[0], training), key=_size)
    few = [replace(e, ids=e.ids[:_TOKENS], types=e.types[:_TOKENS]) for row in rows for e in row][:_EXAMPLES]
    while _size([[e] for e in few]) > _size(rows):
        few.pop()
    return collate(few, pad_id)


def _size(rows: Sequence[Row]) -> int:
    return math.prod(packing.shape(rows))
