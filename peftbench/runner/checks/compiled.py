"""Sanity check of compiled layers: gradients are those without compilation."""

from __future__ import annotations

from contextlib import nullcontext

from peftbench.errors import Unsupported
from peftbench.models import head
from peftbench.runner.checks import recomputed
from peftbench.training import compiling
from peftbench.training.batches import Batch
from peftbench.training.loop import Learner


def check(learner: Learner, batch: Batch) -> None:
    """Check that gradients do not depend on compilation, up to rounding.

    Args:
        learner: the tuned model, whose layers are compiled; it is not changed.
        batch: a few training examples.

    Raises:
        Unsupported: if they do.
    """
    apart = recomputed.distance(learner, batch, compiling.running(learner.compiled), nullcontext())
    whole = learner.precision.autocast is None and learner.precision.trainable == "float32"
    if not apart <= recomputed.CLOSE[whole]:
        raise Unsupported(
            f"compile: {learner.training.compile}: gradients of {type(head.base_of(learner.model)).__name__} with "
            f"compiled layers are not those without ({100 * apart:.2g} % apart); use compile: none"
        )
