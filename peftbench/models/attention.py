"""Set which implementation of attention a base model computes with."""

from __future__ import annotations

from typing import Any

from peftbench.errors import Unsupported
from peftbench.records import failures
from peftbench.records.attention import ATTENTIONS, AUTO

_TRACED = "sdpa"
"""What is traced for implementations without a kernel for the CPU: like them, it keeps queries, keys, values, outputs
and one number per head and token for the backward pass."""


def use(model: Any, name: str) -> None:
    """Let a base model compute with an implementation of attention, in training and in scoring.

    Args:
        model: a model of transformers without a method, changed in place.
        name: of ``ATTENTIONS``, or ``auto`` for what transformers took.

    Raises:
        Unsupported: if transformers has it not for this model, or needs a package that is not installed.
    """
    if name == AUTO or name == of(model):
        return
    kind = type(model).__name__
    try:
        model.set_attn_implementation(name)
    except (ImportError, ValueError) as error:
        raise Unsupported(f"attention: {kind} does not run with {name}: {failures.words(error)}; use auto") from error
    if of(model) != name:  # transformers only warns if a model's code has one implementation alone
        raise Unsupported(f"attention: {kind} runs with {of(model)} only, and not with {name}; use auto")


def of(model: Any) -> str:
    """Return the name of the implementation that a model computes with."""
    return str(getattr(model.config, "_attn_implementation", None))


def traced(name: str) -> str:
    """Return the implementation that stands for another where a step is traced on the CPU."""
    return name if name == AUTO or "cpu" in ATTENTIONS[name].devices else _TRACED
