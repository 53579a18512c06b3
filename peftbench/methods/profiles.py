"""Profiles: the settings of methods that a suite does not give. No torch.

Profile ``paper`` uses the published settings of each method. Profile ``shared`` uses the same training settings for all
methods. Without a profile, each method uses its own recipe (``Method.training``), tuned on the built-in base model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from peftbench.methods.record import shown

PAPER, SHARED = "paper", "shared"
EXPECTED = ("optimizer", "schedule", "warmup_ratio", "weight_decay", "clip_norm", "batch_size", "sequence_length")
"""Training settings that a published recipe should give, besides learning rate and length of training."""


@dataclass(frozen=True)
class Recipe:
    """Published settings of a method."""

    source: str
    """Paper or repository that gives them."""
    of: str
    """Model and data that they are for."""
    training: Mapping[str, Any]
    """Training settings given by the source."""
    rank: int | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    beyond: tuple[str, ...] = ()
    """Details of the source that are not adopted."""

    @property
    def silent(self) -> tuple[str, ...]:
        """Training settings that the source does not give; those without a profile are used."""
        return tuple(name for name in EXPECTED if name not in self.training)


PUBLISHED: Mapping[str, Recipe] = MappingProxyType(
    {
        "full": Recipe(
            source="Lightning-AI/lit-llama, finetune/full.py (2a464de2)",
            of="LLaMA 7B on Alpaca",
            training={
                "learning_rate": 3e-5,
                "batch_size": 128,
                "epochs": 5,
                "weight_decay": 0.0,
                "sequence_length": 512,
            },
            beyond=("a warm-up of 100 iterations", "iterations divided by 4 devices", "micro-batches of 4"),
        ),
        "prompt_tuning": Recipe(
            source="arXiv:2104.08691; google-research/prompt-tuning, gin configurations",
            of="T5 after 100,000 steps of language modelling",
            training={
                "learning_rate": 0.3,
                "optimizer": "adafactor",
                "schedule": "constant",
                "steps": 30_000,
                "batch_size": 32,
                "weight_decay": 1e-5,
            },
            rank=100,
            options={"initialization": "vocabulary"},
            beyond=("an initialization from class labels, if there are any",),
        ),
        "prefix_tuning": Recipe(
            source="XiangLi1999/PrefixTuning, gpt2/train_e2e.py",
            of="GPT-2 on E2E",
            training={"learning_rate": 5e-5, "epochs": 5, "batch_size": 10, "weight_decay": 0.0},
            rank=10,
            options={"reparameterization": "mlp"},  # 512 wide, as by default
        ),
        "adapter": Recipe(
            source="google-research/adapter-bert, README",
            of="BERT on GLUE",
            training={"learning_rate": 3e-4, "epochs": 5, "batch_size": 32, "sequence_length": 128},
            rank=64,
            options={"kind": "houlsby"},
        ),
        "llama_adapter": Recipe(
            source="arXiv:2303.16199 (as transcribed by others)",
            of="LLaMA 7B on Alpaca",
            training={
                "learning_rate": 9e-3,
                "epochs": 5,
                "warmup_ratio": 0.4,  # 2 of 5 epochs
                "batch_size": 64,
                "weight_decay": 0.02,
            },
            rank=10,
            beyond=(
                "30 of LLaMA's 32 layers: here all but 2",
                "the authors' code: a rate of 9e-3 x batch / 256, eight times lower",
            ),
        ),
        "lora": Recipe(
            source="arXiv:2106.09685, appendix; microsoft/LoRA, examples/NLG (c4593f06)",
            of="GPT-2 on E2E",
            training={
                "learning_rate": 2e-4,
                "optimizer": "adamw",
                "schedule": "linear",
                "epochs": 5,
                "batch_size": 8,
                "weight_decay": 0.01,
                "clip_norm": None,
                "sequence_length": 512,
            },
            rank=4,
            options={"alpha": 32.0, "dropout": 0.1, "initialization": "gaussian"},
            beyond=(
                "a warm-up of 500 steps",
                "label smoothing of 0.1",
                "adapting only the query and value projections: list their names in target_modules",
            ),
        ),
        "qlora": Recipe(
            source="artidoro/qlora, scripts/finetune_guanaco_7b.sh (7f4e95a6)",
            of="LLaMA 7B on OASST1",
            training={
                "learning_rate": 2e-4,
                "optimizer": "paged_adamw",
                "schedule": "constant",
                "warmup_ratio": 0.03,
                "steps": 1875,
                "batch_size": 16,
                "weight_decay": 0.0,
                "clip_norm": 0.3,
                "sequence_length": 528,  # 16 of the source and 512 of the target
                "gradient_checkpointing": True,
                "group_by_length": True,
                "loss_on": "completion",
            },
            rank=64,
            options={
                "alpha": 16.0,
                "dropout": 0.1,
                "target_modules": "all-linear",
                "double_quantization": True,
                "compute_dtype": "bf16",
            },
            beyond=("micro-batches of 1",),
        ),
    }
)
"""Method -> published settings. Learning rates are for the model and data named, and no advice for others."""


def training(profile: str | None, method: str, own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the training settings of a method's recipe under a profile.

    Args:
        profile: ``paper``, ``shared`` or None.
        method: the method's name.
        own: the recipe in the method's record.
    """
    if profile == SHARED:
        return {}
    return PUBLISHED[method].training if profile == PAPER and method in PUBLISHED else own


def rank(profile: str | None, method: str, own: int | None) -> int | None:
    """Return the rank of a method for which the suite gives none."""
    found = PUBLISHED.get(method) if profile == PAPER else None
    return found.rank if found and found.rank else own


def options(profile: str | None, method: str) -> Mapping[str, Any]:
    """Return the options that a profile sets in place of the defaults in the method's record."""
    return PUBLISHED[method].options if profile == PAPER and method in PUBLISHED else {}


def describe(method: str) -> str:
    """Return a sentence on a method's published settings: their values and source, what is not given or not adopted."""
    found = PUBLISHED[method]
    settings = {**found.training, **({} if found.rank is None else {"rank": found.rank}), **found.options}
    parts = [f"{', '.join(f'{name} {_shown(value)}' for name, value in settings.items())} ({found.of}; {found.source})"]
    if found.silent:
        parts.append(f"not given: {', '.join(found.silent)}")
    if found.beyond:
        parts.append(f"not adopted: {', '.join(found.beyond)}")
    return "; ".join(parts) + "."


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value)
