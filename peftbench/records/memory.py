"""The categories of memory in a training step: the one place for names, columns, headings and colours. No torch."""

from __future__ import annotations

from enum import StrEnum


class Category(StrEnum):
    """What a tensor's bytes are counted as. The value never changes: it is in column names and in stored JSON."""

    heading: str
    """The heading in figures and tables."""
    short: str
    """The heading in the terminal; categories that share one are added up there."""
    color: str
    """The colour in figures."""
    doc: str
    """What is counted, as the description of the column."""

    def __new__(cls, name: str, heading: str, short: str, color: str, doc: str) -> Category:
        """Make a member whose value is its name."""
        member = str.__new__(cls, name)
        member._value_ = name
        member.heading, member.short, member.color, member.doc = heading, short, color, doc
        return member

    BASE_WEIGHTS = "base_weights", "base weights", "base", "#0072b2", "base weights at the training peak"
    QUANTIZATION_STATE = (
        "quantization_state",
        "quantization state",
        "base",
        "#56b4e9",
        "quantization state at the training peak",
    )
    ADAPTER = "adapter", "adapter weights", "own", "#d55e00", "the method's own weights at the training peak"
    GRADIENTS = "gradients", "gradients", "grads", "#e69f00", "gradients at the training peak"
    OPTIMIZER = "optimizer", "optimizer state", "optim", "#cc79a7", "optimizer state at the training peak"
    ACTIVATIONS = (
        "activations",
        "saved activations",
        "activ",
        "#009e73",
        "tensors saved for backward at the training peak",
    )
    LOGITS = (
        "logits",
        "logits",
        "logits",
        "#f0e442",
        "logits, their copies and their gradients at the training peak; null in rows from before this column, which "
        "count them as activations or temporaries",
    )
    TEMPORARIES = "temporaries", "temporaries", "temp", "#999999", "all other live tensors at the training peak"

    @property
    def column(self) -> str:
        """The column of ``trials`` with the category's bytes at the training peak."""
        return f"peak_{self.value}_bytes"
