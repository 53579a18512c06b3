"""The textbook estimate of memory: so many bytes per parameter. No torch.

It leaves out activations, logits, temporaries, the CUDA context, quantization constants and whatever a method adds.
``docs/memory_arithmetic.md`` compares it with ``peftbench.planner.predict``, which counts them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class PerParameter:
    """Bytes per parameter."""

    weights: float
    gradients: float
    """Of a trainable parameter."""
    optimizer: float
    """AdamW's two moments of a trainable parameter."""
    doc: str


BYTES: Mapping[str, PerParameter] = MappingProxyType(
    {
        "fp32": PerParameter(4, 4, 8, "everything in 32 bits"),
        "mixed": PerParameter(2, 2, 8, "16-bit weights and gradients, 32-bit moments: arXiv:2305.14314, section 1"),
        "int8": PerParameter(1, 1, 2, "everything in 8 bits"),
        "nf4": PerParameter(4.127 / 8, 4, 8, "4-bit weights with doubly quantized scales: arXiv:2305.14314, section 3"),
    }
)
"""By precision. Gradients and moments of ``nf4`` are those of an adapter in 32 bits: 4-bit weights do not train."""


@dataclass(frozen=True)
class Estimate:
    """Bytes by category."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """Their sum in bytes."""
        return self.weights + self.gradients + self.optimizer


def estimate(parameters: float, word: str, trainable: float | None = None) -> Estimate:
    """Return the textbook estimate of a model's memory.

    Args:
        parameters: of the base model.
        word: a key of ``BYTES``.
        trainable: parameters of an adapter on the frozen base model; None if the base model itself trains.
    """
    each = BYTES[word]
    if trainable is None:
        return Estimate(parameters * each.weights, parameters * each.gradients, parameters * each.optimizer)
    own = BYTES["fp32"]
    return Estimate(
        parameters * each.weights + trainable * own.weights, trainable * own.gradients, trainable * own.optimizer
    )
