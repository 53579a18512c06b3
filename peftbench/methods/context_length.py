"""How many data tokens fit into the base model's context beside a method's virtual tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from peftbench.errors import Unsupported
from peftbench.methods import method_of
from peftbench.models import size
from peftbench.records import Trial


def remaining(trial: Trial, config: Any) -> int | None:
    """Return the context length less the trial's virtual tokens; None if the base model states no context length.

    Args:
        trial: gives the method and its rank.
        config: the base model's transformers config, or the mapping read from its ``config.json``.
    """
    if isinstance(config, Mapping):
        context = size.context(config)
    else:
        text = config.get_text_config()
        found = (getattr(text, name, None) for name in (size.CONTEXT[0], "model_type", "pad_token_id"))
        context = size.usable_context(*found)
    return None if context is None else context - virtual_tokens(trial)


def check(trial: Trial, config: Any) -> None:
    """Check that a trial's data tokens and virtual tokens fit into the base model's context.

    Raises:
        Unsupported: if they exceed it.
    """
    free = remaining(trial, config)
    trained = trial.training.sequence_length if trial.training else 0
    needed = max(trial.evaluation.max_length, trained)
    if free is not None and needed > free:
        taken = virtual_tokens(trial)
        key = "train.sequence_length" if needed == trained else "evaluate.max_length"
        raise Unsupported(
            f"{needed} data tokens ({key}) and {taken} virtual tokens exceed the base's context of {free + taken}"
        )


def virtual_tokens(trial: Trial) -> int:
    """Return how many positions of the context the trial's method takes; 0 for methods without virtual tokens."""
    return (trial.rank or 0) if method_of(trial.method, trial.options).virtual_tokens else 0
