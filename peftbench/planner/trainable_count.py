"""Count a trial's trainable parameters from its base model's config, with the method attached on ``meta``."""

from __future__ import annotations

from typing import Any

from peftbench.methods import base_facts
from peftbench.models.load import trainable_parameters
from peftbench.planner import fake
from peftbench.records import Trial


def trainable(trial: Trial, config: Any) -> int:
    """Return the number of parameters that a trial trains, the same as in its row.

    Args:
        trial: a trial that trains.
        config: its base model's transformers config.

    Raises:
        Unsupported, UserError: if the method or an option of it does not exist for this base model.
    """
    base_facts.check(trial, config)
    made = fake.without_weights(trial, config).requires_grad_(False)
    return trainable_parameters(fake.attach(made, trial))
