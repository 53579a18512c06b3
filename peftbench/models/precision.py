"""The table of precisions: each name fixes storage, computation and quantization. No torch.

The dtypes that occur in a training step at each precision are recorded in ``docs/precisions.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

COMPUTE_DTYPES = ("bf16", "fp16", "fp32")
"""Dtypes in which 4-bit weights can be multiplied; the first is the default."""


@dataclass(frozen=True)
class Precision:
    """How weights are stored and in which dtype the model computes. Dtypes are given by their names in torch."""

    name: str
    weights: str
    """Storage dtype of the base model's unquantized weights when they are frozen."""
    trainable: str
    """Storage dtype of trainable parameters, their gradients and AdamW's state; other optimizers choose their own."""
    autocast: str | None
    """Dtype of autocast in training and evaluation; None to compute in the storage dtype."""
    quantization: str | None = None
    """Quantization of the base model's linear layers: ``int8``, ``nf4`` or ``fp4`` of bitsandbytes, ``torchao-int8``
    and so on; None if they are not quantized; ``stored`` for that of a base model's own files.

    LLM.int8 multiplies 8-bit integers, except columns of activations with magnitudes above 6, which are multiplied
    unquantized: Dettmers et al. 2022, arXiv:2208.07339, section 3. On the CPU, bitsandbytes does so in evaluation only;
    in training it multiplies by dequantized weights in the compute dtype.
    """
    gradient_scaling: bool = False
    tf32: bool = False
    devices: tuple[str, ...] = ("cpu", "cuda")
    package: str = ""
    """The package that quantizes, which is also the name of its extra; empty if it is always installed."""
    doc: str = ""

    @property
    def compute(self) -> str:
        """Dtype in which quantized weights are multiplied."""
        return self.autocast or self.trainable

    def base_weights(self, trains_base: bool) -> str:
        """Return the storage dtype of the base model's weights; that of trainable parameters if they train."""
        return self.trainable if trains_base else self.weights


def _torchao(kind: str, doc: str) -> Precision:
    name = f"torchao-{kind}"
    return Precision(name, "bfloat16", "float32", "bfloat16", name, package="torchao", doc=doc)


PRECISIONS: Mapping[str, Precision] = MappingProxyType(
    {
        p.name: p
        for p in (
            Precision("fp32", "float32", "float32", None, doc="everything in 32-bit floats"),
            Precision(
                "tf32", "float32", "float32", None, tf32=True, devices=("cuda",), doc="fp32 with TF32 matrix products"
            ),
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
            # the rest (norms, embeddings, head) in fp32, as peft's prepare_model_for_kbit_training leaves it
            Precision("int8-fp32", "float32", "float32", "bfloat16", "int8", doc="as int8, but the rest fp32"),
            Precision("nf4-fp32", "float32", "float32", "bfloat16", "nf4", doc="as nf4, but the rest fp32"),
            Precision("fp4-fp32", "float32", "float32", "bfloat16", "fp4", doc="as fp4, but the rest fp32"),
            _torchao("int8", "8-bit integer weights of torchao, the rest bf16 (extra torchao)"),
            _torchao("float8", "8-bit float weights of torchao, the rest bf16 (extra torchao)"),
            _torchao("int4", "4-bit integer weights of torchao, in 8 bits each, the rest bf16 (extra torchao)"),
            _torchao("nvfp4", "4-bit float weights of torchao, NVIDIA's NVFP4, the rest bf16 (extra torchao)"),
            Precision(
                "stored", "bfloat16", "float32", "bfloat16", "stored", doc="quantized as in the base model's files"
            ),
        )
    }
)


def why_missing(name: str) -> str | None:
    """Return which package a precision needs and how to install it; None if it needs none that is not there."""
    package = PRECISIONS[name].package
    if not package or find_spec(package):
        return None
    return f"{name} needs the package {package}, which is not installed: pip install 'peftbench[{package}]'"


def effective(name: str, options: Mapping[str, Any]) -> Precision:
    """Return a precision as changed by a method's options.

    Only ``compute_dtype`` changes it, the dtype in which 4-bit weights are multiplied. It becomes autocast's dtype;
    ``fp32`` turns autocast off, so activations between layers have the dtype of the unquantized parts. With ``fp16``,
    gradients are scaled as in every fp16 precision, and unquantized 16-bit parts are stored in fp16, because autocast
    to fp16 refuses bf16 tensors.
    """
    found = PRECISIONS[name]
    compute = options.get("compute_dtype", COMPUTE_DTYPES[0])
    if compute == COMPUTE_DTYPES[0]:
        return found
    if compute == "fp32":
        return replace(found, autocast=None)
    weights = "float16" if found.weights == "bfloat16" else found.weights
    return replace(found, weights=weights, autocast="float16", gradient_scaling=True)
