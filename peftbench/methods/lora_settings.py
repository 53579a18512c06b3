"""The settings of LoRA, which lora and qlora share. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Lt
from pydantic import Field

from peftbench.methods.record import Setting

_TIMES_RANK = Annotated[str, Field(pattern=r"^(\d+(\.\d*)?|\.\d+)r$", description="a multiple of the rank such as 2r")]
_ENDINGS = Annotated[list[str], Field(min_length=1, description="a list of at least one text")]
LORA: Mapping[str, Setting] = MappingProxyType(
    {
        "alpha": Setting(
            Annotated[float, Gt(0)] | _TIMES_RANK | None,
            None,
            "scale of the update is alpha / rank; a number, or a multiple of the rank such as 4r; default 2r",
            shown="2r",
        ),
        "dropout": Setting(Annotated[float, Ge(0), Lt(1)], 0.0, "dropout probability of the input of A"),
        "target_modules": Setting(
            Literal["all-linear", "attention"] | _ENDINGS,
            "all-linear",
            "all-linear (all linear layers except the head), attention (the projections of attention), or a list of "
            "module name endings (also c_attn.q, c_attn.k and c_attn.v, parts of gpt2's fused projection)",
        ),
    }
)
PLUS = Setting(
    Annotated[float, Ge(1)],
    1.0,
    "learning rate of B (also of DoRA's magnitudes) as a multiple of that of A, which is learning_rate; 16 is "
    "published: LoRA+, Hayou et al. 2024, arXiv:2402.12354",
)
_DIVIDED_A = "the correction of a gradient needs the whole A of its layer, and each device holds a part; use ddp"
_FA = Setting(
    bool,
    False,
    "A stays as it starts, and B takes the gradient of the whole update: fewer activations are kept (LoRA-FA, Zhang et "
    "al. 2023, arXiv:2308.03303)",
    excludes=MappingProxyType(
        {
            "dora": "the correction of B's gradient is derived for W + s B A, and DoRA divides it by its norm",
            "lora_plus_ratio": "the ratio is of B's learning rate to that of A, which does not train",
        }
    ),
    not_on=MappingProxyType(dict.fromkeys(("fsdp2", "tp", "pp"), _DIVIDED_A)),
)
_RIEMANNIAN = Setting(
    bool,
    False,
    "gradients of A and B are preconditioned by each other (Zhang & Pilanci 2024, arXiv:2402.02347)",
    excludes=MappingProxyType(
        {
            "dora": "it is derived for W + s B A, and DoRA divides that by its norm",
            "lora_fa": "A does not train there",
        }
    ),
    not_on=MappingProxyType(dict.fromkeys(("fsdp2", "tp", "pp"), _DIVIDED_A)),
)
_EXPERTS = Setting(
    Literal["auto", "each", "divided", "none"],
    "auto",
    "of a mixture of experts: each has the rank, the rank is divided by the experts that a token passes through, or "
    "none is adapted; auto: what peft adapts by itself, which depends on the family",
)
MORE: Mapping[str, Setting] = MappingProxyType(
    {
        "rank_pattern": Setting(
            dict[str, Annotated[int, Ge(1)]], {}, "own ranks, by regular expression on module name endings"
        ),
        "alpha_pattern": Setting(
            dict[str, Annotated[float, Gt(0)]], {}, "own alphas, by regular expression on such endings"
        ),
        "rslora": Setting(bool, False, "scale alpha / sqrt(rank): Kalajdzievski 2023, arXiv:2312.03732"),
        "dora": Setting(bool, False, "trains magnitudes too: Liu et al. 2024, arXiv:2402.09353"),
        "initialization": Setting(
            Literal["kaiming", "gaussian", "pissa", "olora", "eva", "lora_ga", "loftq"],
            "kaiming",
            "initialization of A and B; lora_ga: singular vectors of the first batch's gradient, arXiv:2407.05000",
        ),
        "lora_plus_ratio": PLUS,
        "lora_fa": _FA,
        "riemannian": _RIEMANNIAN,
        "experts": _EXPERTS,
    }
)
