"""How many tokens a base's context has room for, data and virtual ones together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftbench.errors import Unsupported
from peftbench.methods import method_of
from peftbench.records import Trial

_NAMES = ("max_position_embeddings", "n_positions")
"""What a ``config.json`` calls it; transformers' own configs know both by the first."""


def room(trial: Trial, config: Any) -> int | None:
    """Return how many data tokens fit beside a trial's virtual ones; None where the base sets no limit.

    Args:
        trial: with its method and rank.
        config: the base's transformers config, or what its ``config.json`` says.
    """
    if isinstance(config, Mapping):
        text = config.get("text_config", config)
        context = next((text[name] for name in _NAMES if isinstance(text.get(name), int)), None)
    else:
        context = getattr(config.get_text_config(), _NAMES[0], None)
    return None if context is None else context - virtual(trial)


def check(trial: Trial, config: Any) -> None:
    """Raise ``Unsupported`` for a cell whose data and virtual tokens exceed the base's context."""
    free = room(trial, config)
    trained = trial.training.sequence_length if trial.training else 0
    needed = max(trial.evaluation.max_length, trained)
    if free is not None and needed > free:
        taken = virtual(trial)
        key = "train.sequence_length" if needed == trained else "evaluate.max_length"
        raise Unsupported(
            f"{needed} data tokens ({key}) and {taken} virtual tokens exceed the base's context of {free + taken}"
        )


def virtual(trial: Trial) -> int:
    """Return how many positions of the context a trial's method takes."""
    return (trial.rank or 0) if method_of(trial.method, trial.options).virtual_tokens else 0
