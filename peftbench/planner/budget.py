"""Check that a trial fits in memory before its base model is loaded, from the shapes of its own batches."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from peftbench.errors import DoesNotFit, Unsupported, UserError
from peftbench.methods import context_length
from peftbench.planner.predict import predict
from peftbench.planner.records import Pass, Prediction
from peftbench.records import Devices, Training, Trial
from peftbench.records.units import memory
from peftbench.training import packing
from peftbench.training.encoded import Encoded, Row


def check(
    trial: Trial, folder: Path, steps: Sequence[Sequence[Encoded]], budget: int | None, reserve: int = 0, rank: int = 0
) -> Prediction | None:
    """Return a trial's predicted memory, of the step that needs most; None if it cannot be predicted.

    Without a budget nothing depends on the prediction, so an error in it does not end the trial.

    Args:
        trial: a trial that trains.
        folder: a folder with the base model's config.
        steps: the examples of its largest steps; its peak is in one of them.
        budget: bytes that loading and a training step may need; None for no limit.
        reserve: bytes of the budget for non-tensor memory (CUDA context, library workspaces).
        rank: of several devices, the one that the budget is for.

    Raises:
        DoesNotFit: if it is predicted to need more memory than the budget allows; the message has the sizes.
        Unsupported, UserError: with a budget, if the method, its settings or the precision do not exist for this base
            model.
    """
    assert trial.training is not None
    try:
        virtual = context_length.virtual_tokens(trial)
        each = [predict(trial, folder, passes(step, trial.training, virtual, trial.devices), rank) for step in steps]
    except Exception as error:  # a model's code may read values, which fake tensors lack; the trial may still run
        if budget is not None and isinstance(error, Unsupported | UserError):
            raise
        logging.getLogger("peftbench").exception("the training step cannot be traced, so its memory is not predicted")
        return None
    found = max(each, key=lambda prediction: prediction.peak_bytes)
    if budget is not None and found.needed_bytes > budget - reserve:
        parts = ", ".join(f"{k.replace('_', ' ')} {memory(v, 2)}" for k, v in found.needed.items() if v)
        when = "in a training step" if found.needed_bytes == found.peak_bytes else "while its base model is loaded"
        raise DoesNotFit(
            found.peak_bytes,
            f"predicted to need {memory(found.needed_bytes, 2)} {when} ({parts}), "
            f"more than the budget of {memory(budget, 2)}"
            + (f", of which {memory(reserve, 2)} are reserved for non-tensor memory" if reserve else ""),
            found.loading_bytes,
        )
    return found


def passes(
    step: Sequence[Encoded], training: Training, virtual: int = 0, devices: Devices | None = None
) -> tuple[Pass, ...]:
    """Return the shapes of the forward passes of a step that can hold its peak.

    These are the first pass, and the largest of the later passes, during which gradients exist: by tokens, by pairs of
    tokens and by pairs of tokens under a mask. On several devices these are all passes, of which each runs its own.
    """
    if devices is not None:
        every = packing.forward_passes(step, training)
        return tuple(_pass(rows, training) for rows in every)
    first, *later = packing.forward_passes(step, training)
    sizes = [packing.sizes(rows, virtual, training.logits) for rows in later]
    kinds = zip(*sizes, strict=True)
    largest = dict.fromkeys(kind.index(max(kind)) for kind in kinds if max(kind))
    taken = (first, *(later[i] for i in largest))
    return tuple(_pass(rows, training) for rows in taken)


def _pass(rows: Sequence[Row], training: Training) -> Pass:
    bearing = None if training.logits == "all" else packing.bearing(rows)
    return Pass(*packing.shape(rows), packing.masked(rows), training.packing, bearing)
