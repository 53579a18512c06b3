"""What the planner is asked and what it answers. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from peftbench.records import Training, Trial

_PASSES = 2
"""Forward passes of a step that are traced: from the second on, gradients are there while activations grow."""


class Unplannable(Exception):
    """A trial that may well run, but whose step cannot be taken on tensors without values."""


@dataclass(frozen=True)
class Pass:
    """The shape of one forward pass of a training step."""

    examples: int
    """b: rows, which are examples unless several are packed into one."""
    tokens: int
    """t: the longest row in data tokens; virtual tokens come on top."""
    padded: bool = True
    """Whether a row is shorter than the longest or holds several examples, so that attention gets a mask."""
    packed: bool = False
    """Whether examples are told apart by their places in a row."""


@dataclass(frozen=True)
class Prediction:
    """What a trial is predicted to take.

    Bytes are those that the accountant of a real step on the CPU would book; for CUDA, each storage is rounded up as
    its allocator does.
    """

    peak_bytes: int
    """Highest sum of live tensors in a training step."""
    categories: Mapping[str, int]
    """The peak by the ledger's categories; they add up to it."""
    base_parameters: int
    """Tied ones once; packed 4-bit weights count as what they stand for."""
    base_weights_bytes: int
    """Weights and quantization state of the base as loaded."""
    trainable_parameters: int
    checkpoint_bytes: int
    """Tensors of the saved adapter (or of the whole model, if full), without the file's header."""
    flops_per_token: float
    """Floating-point operations of a step's products, forward and backward, per data token (padding counted)."""
    passes: tuple[Pass, ...]
    """The forward passes for which the peak holds."""
    depths: tuple[int, ...]
    """Layers of the models that were traced; a single one is the model's own depth."""
    depth: int
    """Layers of the model."""
    attention: str = "fused"
    """``fused``: a kernel that saves no attention matrix; ``matrix``: they are saved whole; ``none``: there is none."""


def longest(training: Training) -> tuple[Pass, ...]:
    """Return the passes of the largest step that the settings allow: every example as long as the longest."""
    full, rest = divmod(training.batch_size, training.micro_batch_size)
    sizes = [training.micro_batch_size] * full + [rest] * (rest > 0)
    # the largest last: what was held before does not matter beyond the gradients
    return tuple(Pass(size, training.sequence_length, packed=training.packing) for size in sorted(sizes)[-_PASSES:])


@dataclass(frozen=True)
class Question:
    """What is asked of every cell."""

    budget: int | None = None
    """Bytes that the device has; None to ask for no fit."""
    reserve: int | None = None
    """Bytes of the budget that are not for tensors: the context of CUDA, libraries, other programs. None for what each
    trial's device is known to hold beside them."""
    axis: str | None = None
    """Of ``fit.AXES``: what to make as large as fits."""


@dataclass(frozen=True)
class Forecast:
    """One cell's answer."""

    trial: Trial
    found: Prediction | None = None
    """None where the cell trains nothing or does not exist."""
    problem: str | None = None
    """Why there is no prediction."""
    fits: bool | None = None
    """Whether the peak stays within the budget less its reserve; None without a budget."""
    most: int | None = None
    """Largest size of the axis that fits; None where none was asked for, or not even the least fits."""
    capped: bool = False
    """Whether that is as long as the base's context allows, and no matter of memory."""
