"""How many parameters a trial trains, counted on its base's config: the method attached to tensors without memory."""

from __future__ import annotations

from typing import Any

from peftbench.models.load import trainable_parameters
from peftbench.planner import fake
from peftbench.records import Trial


def trainable(trial: Trial, config: Any) -> int:
    """Return the parameters that a trial trains, as its row will tell them.

    Args:
        trial: a trial that trains.
        config: its base's transformers config.

    Raises:
        Unsupported, UserError: if the method or an option of it does not exist on this base.
    """
    made = fake.without_weights(trial, config).requires_grad_(False)
    return trainable_parameters(fake.attach(made, trial))
