"""Sanity check of kernels that stand for parts of the base model: they run, and gradients are those of its own code."""

from __future__ import annotations

from contextlib import nullcontext

from peftbench.errors import Unsupported
from peftbench.models import head
from peftbench.runner.checks import compiled, recomputed
from peftbench.training.batches import Batch
from peftbench.training.loop import Learner


def check(learner: Learner, batch: Batch) -> None:
    """Check that each replaced module runs, and that gradients do not depend on it, up to rounding.

    Args:
        learner: the tuned model, some of whose modules have kernels; it is not changed.
        batch: a few training examples.

    Raises:
        Unsupported: if one does not run, or gradients differ.
    """
    assert learner.kernels is not None
    kind, name = learner.training.kernels, type(head.base_of(learner.model)).__name__
    apart, worst = recomputed.distances(learner, batch, learner.kernels.seen(), nullcontext())
    idle = learner.kernels.idle
    if idle:
        raise Unsupported(
            f"kernels: {kind}: {len(idle)} of {len(learner.kernels.replaced)} modules of {name} that have kernels do "
            f"not run with this method ({type(idle[0]).__name__}); use kernels: none"
        )
    most, most_of_one = compiled.CLOSE[learner.precision.autocast is None and learner.precision.trainable == "float32"]
    if not (apart <= most and worst <= most_of_one):
        raise Unsupported(
            f"kernels: {kind}: gradients of {name} with kernels are not those without ({100 * apart:.2g} % apart, a "
            f"single parameter's up to {100 * worst:.2g} %); use kernels: none"
        )
