"""The table of precisions: exact words for storage, computation and quantization. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from peftbench.methods import Method


@dataclass(frozen=True)
class Precision:
    """How the base's weights are stored and in what the model computes. Dtypes are names of torch dtypes."""

    name: str
    weights: str
    """Storage of the base's (unquantized) weights when they are frozen."""
    trainable: str
    """Storage of whatever trains, and of its optimizer state."""
    autocast: str | None
    """dtype of autocast in training and evaluation; None computes in the storage type."""
    quantization: str | None = None
    """``int8``, ``nf4`` or ``fp4``: how the linear layers of the base are stored; None for not at all."""
    gradient_scaling: bool = False
    tf32: bool = False
    devices: tuple[str, ...] = ("cpu", "cuda")
    doc: str = ""

    def base_weights(self, trains_base: bool) -> str:
        """Return the storage type of the base's weights: master weights where they train themselves."""
        return self.trainable if trains_base else self.weights


PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        p.name: p
        for p in (
            Precision("fp32", "float32", "float32", None, doc="everything in 32-bit floats"),
            Precision("tf32", "float32", "float32", None, tf32=True, devices=("cuda",), doc="fp32 with TF32 products"),
            Precision(
                "bf16", "bfloat16", "float32", "bfloat16", doc="frozen base in bf16, trainables in fp32, autocast"
            ),
            Precision("bf16-true", "bfloat16", "bfloat16", None, doc="everything in bf16, optimizer state too"),
            Precision(
                "fp16",
                "float16",
                "float32",
                "float16",
                gradient_scaling=True,
                doc="frozen base in fp16, trainables in fp32, autocast, scaled gradients",
            ),
            Precision("int8", "bfloat16", "float32", "bfloat16", "int8", doc="LLM.int8 linear layers, the rest bf16"),
            Precision("nf4", "bfloat16", "float32", "bfloat16", "nf4", doc="4-bit NormalFloat linear layers"),
            Precision("fp4", "bfloat16", "float32", "bfloat16", "fp4", doc="4-bit float linear layers"),
        )
    }
)


def why_unsupported(method: Method, precision: str, device: str) -> str | None:
    """Return the reason why a (method, precision, device) cell cannot exist, or None where it can."""
    if precision not in method.precisions:
        return f"{method.name} does not exist in {precision}, because {method.why_not}"
    if device not in PRECISIONS[precision].devices:
        return f"{precision} does not exist on {device} (only on {', '.join(PRECISIONS[precision].devices)})"
    return None
