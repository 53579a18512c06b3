"""Sanity check of compiled layers: gradients are those without compilation."""

from __future__ import annotations

import math
from contextlib import nullcontext

from peftbench.errors import Unsupported
from peftbench.models import head
from peftbench.runner.checks import recomputed
from peftbench.training import compiling
from peftbench.training.batches import Batch
from peftbench.training.loop import Learner

CLOSE = {True: (recomputed.CLOSE[True], math.inf), False: (0.1, 0.5)}
"""Largest distance of gradients, of all together and of a single parameter, by whether everything is computed in fp32.
In bf16 the tests' base is 3 % from its gradients in fp32, compiled or not, and up to 5 % between the two; a layer that
ran other code would have a gradient of its own."""


def check(learner: Learner, batch: Batch) -> None:
    """Check that gradients do not depend on compilation, up to rounding.

    Args:
        learner: the tuned model, whose layers are compiled; it is not changed.
        batch: a few training examples.

    Raises:
        Unsupported: if they do.
    """
    apart, worst = recomputed.distances(learner, batch, compiling.running(learner.compiled), nullcontext())
    whole = learner.precision.autocast is None and learner.precision.trainable == "float32"
    most, most_of_one = CLOSE[whole]
    if not (apart <= most and worst <= most_of_one):
        raise Unsupported(
            f"compile: {learner.training.compile}: gradients of {type(head.base_of(learner.model)).__name__} with "
            f"compiled layers are not those without ({100 * apart:.2g} % apart, a single "
            f"parameter's up to {100 * worst:.2g} %); use compile: none"
        )
