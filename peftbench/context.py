"""How many tokens a base's context has room for, data and virtual ones together."""

from __future__ import annotations

from typing import Any

from peftbench.errors import Unsupported
from peftbench.methods import method_of
from peftbench.records import Trial


def room(trial: Trial, config: Any) -> int | None:
    """Return how many data tokens fit beside a trial's virtual ones; None where the base sets no limit.

    Args:
        trial: with its method and rank.
        config: the base's transformers config.
    """
    context = getattr(config.get_text_config(), "max_position_embeddings", None)
    return None if context is None else context - _virtual(trial)


def check(trial: Trial, config: Any) -> None:
    """Raise ``Unsupported`` for a cell whose data and virtual tokens exceed the base's context."""
    free = room(trial, config)
    needed = max(trial.evaluation.max_length, trial.training.sequence_length if trial.training else 0)
    if free is not None and needed > free:
        virtual = _virtual(trial)
        raise Unsupported(
            f"{needed} data tokens and {virtual} virtual tokens exceed the base's context of {free + virtual}"
        )


def _virtual(trial: Trial) -> int:
    return (trial.rank or 0) if method_of(trial.method, trial.options).virtual_tokens else 0
