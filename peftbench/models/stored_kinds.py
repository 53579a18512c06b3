"""The formats in which base models are stored quantized: which are not used, why, and the way out. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Kind:
    """A library's way to store quantized weights."""

    title: str
    why_not: str = ""
    """Why it cannot be trained here, as a clause; empty if it can."""
    way_out: str = ""
    """How to make an unquantized copy, as Python; empty if there is no short way."""
    package: str = ""
    """The package that its weights need, and the extra that installs it; empty if it is always installed."""


def _copy(settings: str = "", then: str = "") -> str:
    """Return the Python that loads BASE unquantized and saves it as COPY."""
    loaded = f'AutoModelForCausalLM.from_pretrained("BASE", dtype="bfloat16"{settings}){then}'
    # the files' own format is the quantized one, to which transformers 5.23 would fail to go back
    return f'{loaded}.save_pretrained("COPY", save_original_format=False)'


UNTRIED = "peftbench has not been tried with it"
_BUFFERS = "its layers keep their weights in buffers, not in parameters, and peftbench does not count those yet"
_BY_GPTQMODEL = 'from gptqmodel.utils.model_dequant import dequantize_model; dequantize_model("BASE", "COPY")'
KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "aqlm": Kind("AQLM", UNTRIED),
        "auto-round": Kind("AutoRound", UNTRIED),
        "awq": Kind("AWQ", _BUFFERS),
        "bitnet": Kind("BitNet", UNTRIED),
        "bitsandbytes": Kind("bitsandbytes", way_out=_copy(then=".dequantize()")),
        "compressed-tensors": Kind(
            "compressed-tensors",
            "transformers leaves its weights compressed only until the first forward pass, so that it would train an "
            "unquantized base under the name of a quantized one",
            _copy(", quantization_config=CompressedTensorsConfig(dequantize=True)"),
        ),
        "eetq": Kind("EETQ", UNTRIED),
        "fbgemm_fp8": Kind("FBGEMM FP8", UNTRIED),
        "fp8": Kind(
            "fine-grained FP8",
            "transformers dequantizes it without being asked wherever its kernels do not run, and then it is no "
            "quantized base",
            _copy(", quantization_config=FineGrainedFP8Config(dequantize=True)"),
        ),
        "gptq": Kind("GPTQ", _BUFFERS, _BY_GPTQMODEL),
        "higgs": Kind("HIGGS", UNTRIED),
        "hqq": Kind("HQQ", "transformers 5 has no loader for its weights and leaves random ones in their place"),
        "mxfp4": Kind(
            "MXFP4",
            "transformers trains no base whose experts are in MXFP4 (is_trainable of its quantizer is false)",
            _copy(", quantization_config=Mxfp4Config(dequantize=True)"),
        ),
        "quanto": Kind("Quanto", "transformers can neither save nor load its weights"),
        "torchao": Kind("torchao", package="torchao"),
    }
)
"""``quant_method`` -> how such weights are stored."""
