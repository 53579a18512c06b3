"""Sanity check of logits at some positions: the model gives the same losses as with logits at every position."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import torch

from peftbench.errors import Unsupported
from peftbench.models import head
from peftbench.models.load import autocast
from peftbench.records import failures
from peftbench.runner.checks import recomputed
from peftbench.training import logits, losses
from peftbench.training.batches import IGNORED, Batch, bearing
from peftbench.training.loop import Learner

_CLOSE = {True: 1e-4, False: 2e-2}
"""Largest distance, relative to their norm, of the losses of tokens, by whether everything is computed in fp32. Another
number of rows is multiplied by other kernels, which round differently; losses of other tokens are far further apart."""


@torch.no_grad()
def check(learner: Learner, batch: Batch) -> None:
    """Check that the losses of tokens do not depend on where logits are made.

    Args:
        learner: the tuned model, ready to train; it is not changed.
        batch: a few training examples.

    Raises:
        Unsupported: if they do, or if the model's code cannot run so.
    """
    some = bearing(batch.to(learner.device), learner.training)
    if some.bearing is None or not len(some.bearing.rows):
        return
    where = some.bearing
    if where.chunk is not None:  # two chunks
        where = replace(where, chunk=-(-len(where.rows) // 2))
    name, kind = type(head.base_of(learner.model)).__name__, learner.training.logits
    learner.model.eval()
    with autocast(learner.precision, learner.device):
        expected = losses.of_tokens(head.predictions(learner.model, some.inputs), some)[where.rows, where.places]
        try:
            found = logits.losses(learner.model, some.inputs, some.labels, where, IGNORED)
        except Unsupported:
            raise
        except Exception as error:  # of the model's own code, which does not expect fewer positions
            if failures.out_of_memory(error):
                raise
            raise Unsupported(
                f"logits: {name} does not run with logits: {kind}: {failures.words(error)}; use logits: all"
            ) from error
    distance = float((found - expected).norm() / expected.norm())
    whole = learner.precision.autocast is None and learner.precision.trainable == "float32"
    if not distance <= _CLOSE[whole]:
        raise Unsupported(
            f"logits: {name} gives other losses with logits: {kind} than with all of them ({100 * distance:.2g} % "
            "apart); use logits: all"
        )


def check_gradients(learner: Learner, batch: Batch) -> None:
    """Check that gradients do not depend on where logits are made, for an operator that computes them itself.

    Args:
        learner: the tuned model, ready to train on one device; it is not changed.
        batch: a few training examples.

    Raises:
        Unsupported: if they do.
    """
    some = bearing(batch, learner.training)
    if some.bearing is None or not len(some.bearing.rows):
        return
    apart = recomputed.distance(learner, some, nullcontext(), nullcontext(), batch)
    whole = learner.precision.autocast is None and learner.precision.trainable == "float32"
    if not apart <= recomputed.CLOSE[whole]:
        raise Unsupported(
            f"logits: {type(head.base_of(learner.model)).__name__} gives other gradients with logits: "
            f"{learner.training.logits} than with all of them ({100 * apart:.2g} % apart); use logits: all"
        )
