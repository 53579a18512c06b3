"""The table of precisions: exact words for storage, computation and quantization. Nothing here imports torch.

What the words come to, as seen in a run, is in ``docs/precisions.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

COMPUTE_DTYPES = ("bf16", "fp16", "fp32")
"""In which 4-bit weights can be multiplied; the first is the default."""


@dataclass(frozen=True)
class Precision:
    """How the base's weights are stored and in what the model computes. Dtypes are names of torch dtypes."""

    name: str
    weights: str
    """Storage of the base's (unquantized) weights when they are frozen."""
    trainable: str
    """Storage of whatever trains, and of its gradients and AdamW's state; other optimizers have their own types."""
    autocast: str | None
    """dtype of autocast in training and evaluation; None computes in the storage type."""
    quantization: str | None = None
    """``int8``, ``nf4`` or ``fp4``: how the linear layers of the base are stored; None for not at all.

    LLM.int8 multiplies codes by codes, and columns of activations beyond its threshold of 6 unquantized: Dettmers et
    al. 2022, arXiv:2208.07339, section 3. On the CPU bitsandbytes does so in evaluation only: in training it multiplies
    with dequantized weights in the compute type.
    """
    gradient_scaling: bool = False
    tf32: bool = False
    devices: tuple[str, ...] = ("cpu", "cuda")
    doc: str = ""

    @property
    def compute(self) -> str:
        """In what quantized weights are multiplied."""
        return self.autocast or self.trainable

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
            Precision("bf16-true", "bfloat16", "bfloat16", None, doc="everything stored in bf16, AdamW's state too"),
            Precision(
                "fp16",
                "float16",
                "float32",
                "float16",
                gradient_scaling=True,
                doc="frozen base in fp16, trainables in fp32, autocast, scaled gradients",
            ),
            Precision("int8", "bfloat16", "float32", "bfloat16", "int8", doc="LLM.int8 linear layers, the rest bf16"),
            Precision("nf4", "bfloat16", "float32", "bfloat16", "nf4", doc="4-bit NormalFloat layers, the rest bf16"),
            Precision("fp4", "bfloat16", "float32", "bfloat16", "fp4", doc="4-bit float linear layers, the rest bf16"),
            # the rest (norms, embeddings, head) as peft's k-bit preparation leaves it
            Precision("int8-fp32", "float32", "float32", "bfloat16", "int8", doc="as int8, but the rest fp32"),
            Precision("nf4-fp32", "float32", "float32", "bfloat16", "nf4", doc="as nf4, but the rest fp32"),
            Precision("fp4-fp32", "float32", "float32", "bfloat16", "fp4", doc="as fp4, but the rest fp32"),
        )
    }
)


def effective(name: str, options: Mapping[str, Any]) -> Precision:
    """Return a precision with what the method's options change in it.

    ``compute_dtype`` is the type in which 4-bit weights are multiplied: that of autocast, and fp32 without autocast
    (activations between layers then have the type of the unquantized parts). fp16 scales gradients as everywhere, and
    a 16-bit rest is stored in fp16 too: autocast to fp16 refuses bf16 tensors.
    """
    found = PRECISIONS[name]
    compute = options.get("compute_dtype", COMPUTE_DTYPES[0])
    if compute == COMPUTE_DTYPES[0]:
        return found
    if compute == "fp32":
        return replace(found, autocast=None)
    weights = "float16" if found.weights == "bfloat16" else found.weights
    return replace(found, weights=weights, autocast="float16", gradient_scaling=True)
