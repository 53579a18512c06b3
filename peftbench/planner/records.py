"""The records of the planner: shapes of a step, predictions, and forecasts for cells. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from peftbench.records import Devices, Training, Trial

_PASSES = 2
"""Forward passes of a step that are traced. From the second on, gradients exist while activations grow."""


class Unplannable(Exception):
    """The step cannot run on tensors without values; the trial itself may still run."""


@dataclass(frozen=True)
class Pass:
    """The shape of one forward pass of a training step."""

    examples: int
    """b: rows; a row is an example, or several if they are packed."""
    tokens: int
    """t: data tokens of the longest row, without virtual tokens."""
    padded: bool = True
    """Whether attention gets a mask, because rows have padding or hold several examples."""
    packed: bool = False
    """Whether a row holds several examples."""
    bearing: int | None = None
    """Tokens in the loss, for a trial that makes logits for these alone; None for the most there can be, all but the
    first of each row."""


@dataclass(frozen=True)
class Prediction:
    """A trial's predicted memory and work.

    Bytes are those that the memory ledger of a real step on the CPU would count; for CUDA, each storage is rounded up
    as CUDA's allocator does.
    """

    peak_bytes: int
    """Largest sum of live tensors in a training step."""
    categories: Mapping[str, int]
    """The peak by the ledger's categories, which add up to it."""
    base_parameters: int
    """Parameters of the base model. Tied parameters count once, packed 4-bit weights as the weights they encode."""
    base_weights_bytes: int
    """Weights and quantization state of the base model as loaded."""
    trainable_parameters: int
    checkpoint_bytes: int
    """Tensors of the saved adapter (of the whole model for full fine-tuning), without the file's header."""
    flops_per_token: float
    """Floating-point operations of a step's matrix products, forward and backward, per data token with padding."""
    passes: tuple[Pass, ...]
    """The forward passes that the peak is predicted for."""
    depths: tuple[int, ...]
    """Decoder layers of the traced models; a single number is the model's own depth."""
    depth: int
    """Decoder layers of the model."""
    offloaded_bytes: int = 0
    """Most bytes that the step holds on the host at one moment; not in ``peak_bytes``."""
    attention: str = "fused"
    """``fused``: a kernel that saves no attention matrix; ``matrix``: whole matrices; ``none``: no attention."""
    ranks: tuple[int, ...] = ()
    """On several devices, the peak of each; empty for one."""
    loading: Mapping[str, int] = field(default_factory=dict)
    """Tensors by category when loading the base model needs most; empty if it is not known. Those of which files have
    parts are taken to exist twice, so for a mixture of experts in files it is an upper bound."""

    @property
    def loading_bytes(self) -> int | None:
        """The most that loading the base model needs; None if it is not known."""
        return sum(self.loading.values()) if self.loading else None

    @property
    def needed_bytes(self) -> int:
        """The most that tensors need at one moment of loading and training."""
        return max(self.peak_bytes, self.loading_bytes or 0)

    @property
    def needed(self) -> Mapping[str, int]:
        """These by category."""
        return self.categories if self.needed_bytes == self.peak_bytes else self.loading


def longest(training: Training, devices: Devices | None = None) -> tuple[Pass, ...]:
    """Return the forward passes of the largest step that the settings allow, with every example at full length.

    Only as many as the peak depends on: on several devices that divide them, of all devices; in a pipeline all.
    """
    full, rest = divmod(training.batch_size, training.micro_batch_size)
    sizes = [training.micro_batch_size] * full + [rest] * (rest > 0)
    # the largest comes last: of the passes before it, only the gradients still take memory
    kept = _PASSES * (devices.shares if devices else 1)
    if devices and devices.strategy == "pp":
        kept = len(sizes)
    return tuple(Pass(size, training.sequence_length, packed=training.packing) for size in sorted(sizes)[-kept:])


@dataclass(frozen=True)
class Question:
    """What to predict for every cell beside its memory."""

    budget: int | None = None
    """Bytes that a trial may need; None to leave out whether it fits."""
    reserve: int | None = None
    """Bytes of the budget for non-tensor memory: CUDA context, library workspaces, other programs. None for an estimate
    for each trial's device."""
    axis: str | None = None
    """One of ``fit.AXES``: find its largest size that fits."""


@dataclass(frozen=True)
class Lever:
    """Settings that need less memory than a cell's own."""

    settings: Mapping[str, Any]
    """What to set: ``precision``, options of the method, and keys of ``train``."""
    peak_bytes: int | None
    """The predicted peak of loading and training with them; None if there is no prediction."""
    fits: bool


@dataclass(frozen=True)
class Forecast:
    """The prediction for one cell."""

    trial: Trial
    found: Prediction | None = None
    """None if the cell trains nothing or is unsupported."""
    problem: str | None = None
    """Why there is no prediction."""
    fits: bool | None = None
    """Whether loading and training are within the budget less its reserve; None without a budget."""
    most: int | None = None
    """Largest size of the axis that fits; None if none was asked for, or not even the smallest fits."""
    capped: bool = False
    """Whether the base model's context limits that size, rather than memory."""
    levers: tuple[Lever, ...] = ()
    """For a cell that does not fit: settings that were tried, the nearest first; the last one fits if any does."""
