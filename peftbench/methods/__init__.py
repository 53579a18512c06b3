"""The table of methods. Adding a method takes a record here and a file in this package. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt
from pydantic import Field

from peftbench.methods import lora_settings
from peftbench.methods.plugins import Table
from peftbench.methods.record import Method, Setting
from peftbench.methods.turn_settings import TURNS
from peftbench.models.precision import COMPUTE_DTYPES
from peftbench.records.resolve import resolve

FLOATS = ("fp32", "tf32", "bf16", "bf16-true", "fp16")
FOUR_BIT = ("nf4", "fp4", "nf4-fp32", "fp4-fp32")
TORCHAO = ("torchao-int8", "torchao-float8", "torchao-int4", "torchao-nvfp4")
QUANTIZED = ("int8", "int8-fp32", *FOUR_BIT, *TORCHAO, "stored")
_PEFT = "peftbench.methods.peft_checkpoint"
_WHOLE = "peftbench.methods.full"
_ENDINGS = Annotated[list[str], Field(min_length=1, description="a list of at least one text")]
ADAPTER_KINDS: Mapping[str, tuple[str, float]] = {
    "houlsby": ("gelu", 1.0),  # google-research/adapter-bert, modeling.py: feedforward_adapter
    "pfeiffer": ("relu", 1.0),  # arXiv:2005.00052, equation 1
    "parallel": ("relu", 4.0),  # jxhe/unify-parameter-efficient-tuning, exps: ffn_adapter_scalar
}
"""Kind of adapter -> its default activation and scale."""

PREFIX_HIDDEN = 512
"""Default width of prefix tuning's MLP: the paper's for table-to-text (800 for summarization)."""

METHODS: Table[Method] = Table(
    Method,
    {
        m.name: m
        for m in (
            Method(
                name="base",
                title="untuned base",
                paper="",
                attach=f"{_WHOLE}:attach_nothing",
                save=f"{_WHOLE}:save",
                load=f"{_WHOLE}:load",
                precisions=FLOATS + QUANTIZED,
                trains=False,
                color="#7f7f7f",
            ),
            Method(
                name="full",
                title="full fine-tuning",
                paper="",
                attach=f"{_WHOLE}:attach",
                save=f"{_WHOLE}:save",
                load=f"{_WHOLE}:load",
                precisions=FLOATS,
                why_not="quantized weights have no gradient (training only the rest would be another method)",
                trains_base=True,
                options=MappingProxyType(
                    {
                        "layers": Setting(
                            Annotated[int, Ge(1)] | None,
                            None,
                            "number of topmost decoder layers that train",
                            shown="null (all)",
                        ),
                        "modules": Setting(
                            Literal["norms", "biases"] | _ENDINGS | None,
                            None,
                            "the weights that train: norms, biases (BitFit: Ben Zaken et al. 2021, arXiv:2106.10199), "
                            "or a list of these and of module name endings",
                            shown="null (all)",
                        ),
                        **TURNS,
                    }
                ),
                training=MappingProxyType({"learning_rate": 1e-3}),
                color="#d62728",
            ),
            Method(
                name="prompt_tuning",
                title="prompt tuning",
                paper="Lester et al. 2021, arXiv:2104.08691",
                attach="peftbench.methods.prompt_tuning:attach",
                save=f"{_PEFT}:save",
                load=f"{_PEFT}:load",
                switch_off=f"{_PEFT}:disabled",
                precisions=FLOATS + QUANTIZED,
                rank_meaning="virtual tokens",
                default_rank=20,
                options=MappingProxyType(
                    {
                        "initialization": Setting(
                            Literal["random", "vocabulary", "text"],
                            "vocabulary",
                            "initialization of the virtual tokens. random: standard normal; vocabulary: sampled rows "
                            "of the embedding matrix; text: embeddings of the tokens of text",
                        ),
                        "text": Setting(
                            str | None,
                            None,
                            "text that initializes the virtual tokens, cut or repeated to their number",
                            only_with=("initialization", "text"),
                            needed=True,
                        ),
                    }
                ),
                training=MappingProxyType({"learning_rate": 1e-1}),
                identity_at_init=False,
                virtual_tokens=True,
                color="#9467bd",
            ),
            Method(
                name="prefix_tuning",
                title="prefix tuning",
                paper="Li & Liang 2021, arXiv:2101.00190",
                attach="peftbench.methods.prefix_tuning:attach",
                save=f"{_PEFT}:save",
                load=f"{_PEFT}:load",
                switch_off=f"{_PEFT}:disabled",
                precisions=FLOATS + QUANTIZED,
                why_no_checkpointing="the prefix is a cache, and recomputing a layer would append to it again",
                rank_meaning="virtual tokens",
                default_rank=16,
                options=MappingProxyType(
                    {
                        "reparameterization": Setting(
                            Literal["none", "mlp"], "none", "mlp: an MLP gives the prefix in training"
                        ),
                        "hidden_size": Setting(
                            Annotated[int, Ge(1)] | None,
                            None,
                            "hidden width of the MLP",
                            shown=str(PREFIX_HIDDEN),
                            only_with=("reparameterization", "mlp"),
                        ),
                    }
                ),
                training=MappingProxyType({"learning_rate": 3e-2}),
                identity_at_init=False,
                virtual_tokens=True,
                color="#8c564b",
            ),
            Method(
                name="adapter",
                title="bottleneck adapter",
                paper="Houlsby et al. 2019, arXiv:1902.00751",
                attach="peftbench.methods.adapter:attach",
                save="peftbench.methods.adapter:save",
                load="peftbench.methods.adapter:load",
                switch_off="peftbench.methods.adapter:disabled",
                precisions=FLOATS + QUANTIZED,
                rank_meaning="bottleneck width",
                default_rank=64,
                options=MappingProxyType(
                    {
                        "kind": Setting(
                            Literal["houlsby", "pfeiffer", "parallel"],
                            "houlsby",
                            "houlsby: after attention and after feed-forward; pfeiffer: after the layer; parallel: "
                            "in parallel to the feed-forward",
                        ),
                        "activation": Setting(
                            Literal["gelu", "relu", "silu", "tanh"] | None,
                            None,
                            "activation between down and up projection; default gelu for houlsby, relu for the others",
                            shown="null (by kind)",
                        ),
                        "scale": Setting(
                            Annotated[float, Gt(0)] | None,
                            None,
                            "factor of the bottleneck's output; default 4 for parallel, 1 for the others",
                            shown="null (by kind)",
                        ),
                    }
                ),
                training=MappingProxyType({"learning_rate": 3e-3}),
                color="#2ca02c",
            ),
            Method(
                name="llama_adapter",
                title="LLaMA-Adapter",
                paper="Zhang et al. 2023, arXiv:2303.16199",
                attach="peftbench.methods.llama_adapter:attach",
                save="peftbench.methods.llama_adapter:save",
                load="peftbench.methods.llama_adapter:load",
                switch_off="peftbench.methods.llama_adapter:disabled",
                precisions=FLOATS + QUANTIZED,
                rank_meaning="prompt length",
                default_rank=10,
                options=MappingProxyType(
                    {
                        "layers": Setting(
                            Annotated[int, Ge(1)] | None,
                            None,
                            "number of topmost decoder layers that are adapted",
                            shown="null (all but 2)",
                        ),
                        "gate": Setting(
                            Literal["per_layer", "per_head"],
                            "per_layer",
                            "per_layer: one factor per layer, as in peft; per_head: the tanh "
                            "of a factor per head, as in the authors' code",
                        ),
                    }
                ),
                training=MappingProxyType({"learning_rate": 3e-2}),
                color="#e377c2",
            ),
            Method(
                name="lora",
                title="LoRA",
                paper="Hu et al. 2021, arXiv:2106.09685",
                attach="peftbench.methods.lora:attach",
                save="peftbench.methods.lora:save",
                load=f"{_PEFT}:load",
                switch_off=f"{_PEFT}:disabled",
                precisions=FLOATS + QUANTIZED,
                rank_meaning="rank r",
                default_rank=8,
                options=MappingProxyType({**lora_settings.LORA, **lora_settings.MORE}),
                training=MappingProxyType({"learning_rate": 5e-3}),
                after_step="peftbench.methods.lora_fused_projection:keep_zeros",
                color="#1f77b4",
            ),
            Method(
                name="qlora",
                title="QLoRA",
                paper="Dettmers et al. 2023, arXiv:2305.14314",
                attach="peftbench.methods.lora:attach",
                save="peftbench.methods.lora:save",
                load=f"{_PEFT}:load",
                switch_off=f"{_PEFT}:disabled",
                precisions=(*FOUR_BIT, "stored"),
                why_not="QLoRA is LoRA on a 4-bit base; use lora for other precisions",
                default_precision="nf4",
                rank_meaning="rank r",
                default_rank=8,
                options=MappingProxyType(
                    {
                        **lora_settings.LORA,
                        "double_quantization": Setting(bool, True, "quantize the quantization constants too"),
                        "compute_dtype": Setting(
                            Literal[COMPUTE_DTYPES], "bf16", "dtype in which 4-bit weights are multiplied"
                        ),
                        **lora_settings.MORE,
                    }
                ),
                training=MappingProxyType({"learning_rate": 5e-3, "optimizer": "paged_adamw"}),
                after_step="peftbench.methods.lora_fused_projection:keep_zeros",
                color="#ff7f0e",
            ),
            Method(
                name="peft",
                title="peft tuner",
                paper="",
                attach="peftbench.methods.peft:attach",
                save="peftbench.methods.lora:save",
                load="peftbench.methods.peft:load",
                switch_off=f"{_PEFT}:disabled",
                precisions=FLOATS + QUANTIZED,
                options=MappingProxyType(
                    {
                        "peft_type": Setting(
                            str | None, None, "the tuner", shown="null (any of peft's, with its config's fields)"
                        )
                    }
                ),
                variants="peftbench.methods.peft_fields:variants",
                after_step="peftbench.methods.peft:after_step",
                progress="peftbench.methods.peft_progress",
                identity_at_init=None,
                color="#17becf",
            ),
        )
    },
)
"""The methods of peftbench, then those of other packages (``plugins``)."""


def method_of(name: str, options: Mapping[str, Any]) -> Method:
    """Return a method's record; for a method with variants, that of the variant described by a trial's options."""
    record = METHODS[name]
    return resolve(record.variants)(options)[0][0] if record.variants else record


def alpha_of(alpha: float | str | None, rank: int) -> float:
    """Return LoRA's alpha as a number: None stands for twice the rank, ``4r`` for four times the rank."""
    if alpha is None:
        return 2.0 * rank
    return float(alpha.removesuffix("r")) * rank if isinstance(alpha, str) else alpha
