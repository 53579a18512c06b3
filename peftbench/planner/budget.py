"""Whether a trial will fit, before its base is loaded: on the shapes of its own batches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from peftbench.errors import DoesNotFit, Unsupported, UserError
from peftbench.methods import context_length
from peftbench.planner.predict import predict
from peftbench.planner.records import Pass
from peftbench.records import Training, Trial
from peftbench.training import packing
from peftbench.training.batches import Encoded


def check(
    trial: Trial, folder: Path, steps: Sequence[Sequence[Encoded]], budget: int | None, reserve: int = 0
) -> int | None:
    """Return a trial's predicted peak in bytes; None where there is none.

    Without a budget nothing depends on the prediction, and whatever prevents it leaves the trial as it is.

    Args:
        trial: a trial that trains.
        folder: with its base's config.
        steps: the examples of its largest steps, in one of which is its peak.
        budget: bytes that a training step may take; None for no limit.
        reserve: bytes of these that are kept for what is no tensor.

    Raises:
        DoesNotFit: with the figures, if it is predicted to need more memory than there is.
        Unsupported, UserError: with a budget, if the method, its settings or the precision do not exist on this base.
    """
    assert trial.training is not None
    try:
        each = [
            predict(trial, folder, passes(step, trial.training, context_length.virtual_tokens(trial))) for step in steps
        ]
    except Exception as error:  # a model's code may ask for values, which there are none of; the trial may well run
        if budget is not None and isinstance(error, Unsupported | UserError):
            raise
        logging.getLogger("peftbench").exception("the training step cannot be traced, so its memory is not predicted")
        return None
    found = max(each, key=lambda prediction: prediction.peak_bytes)
    if budget is not None and found.peak_bytes > budget - reserve:
        parts = ", ".join(f"{k.replace('_', ' ')} {_told(v)}" for k, v in found.categories.items() if v)
        raise DoesNotFit(
            found.peak_bytes,
            f"predicted to need {_told(found.peak_bytes)} in a training step ({parts}), "
            f"more than the budget of {_told(budget)}"
            + (f", of which {_told(reserve)} are kept for what is no tensor" if reserve else ""),
        )
    return found.peak_bytes


def _told(size: int) -> str:
    """Return bytes in the unit in which they can be read."""
    return f"{size / 2**30:.2f} GiB" if size >= 2**28 else f"{size / 2**20:.2f} MiB"


def passes(step: Sequence[Encoded], training: Training, virtual: int = 0) -> tuple[Pass, ...]:
    """Return the shapes of those of a step's forward passes that decide its peak.

    They are the first, and of the later ones, while which there are gradients, the largest: by tokens, by pairs of
    tokens and by pairs under a mask.
    """
    first, *later = packing.forward_passes(step, training)
    sizes = [packing.sizes(rows, virtual) for rows in later]
    kinds = zip(*sizes, strict=True)
    largest = dict.fromkeys(kind.index(max(kind)) for kind in kinds if max(kind))
    taken = (first, *(later[i] for i in largest))
    return tuple(Pass(*packing.shape(rows), packing.masked(rows), training.packing) for rows in taken)
