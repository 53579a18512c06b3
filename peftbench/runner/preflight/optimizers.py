"""What should be known before a run about the optimizers of a suite. No torch."""

from __future__ import annotations

from collections.abc import Sequence

from peftbench.records import OPTIMIZERS, Trial
from peftbench.records.optimizers import AS_ADAMW
from peftbench.suite.layers import DEFAULT, RECIPE, RULE


def notes(trials: Sequence[Trial]) -> tuple[str, ...]:
    """Return a note for each optimizer that is to train at a default rate, which is AdamW's, and has others."""
    found: dict[str, None] = {}
    for trial in trials:
        if trial.training is None or trial.learning_rate_source not in (DEFAULT, RECIPE, RULE):
            continue
        record = OPTIMIZERS[trial.training.optimizer]
        if record.rate != AS_ADAMW:
            found[
                f"optimizer {record.name}: the default learning rates are AdamW's, and those of {record.name} are "
                f"{record.rate}: give learning_rate, or search for it"
            ] = None
    return tuple(found)
