"""Profiles: which settings methods have where the suite gives none. No torch.

``paper`` is each method's published setting, ``shared`` one for all, without any method's own recipe. Without a
profile each method has its own recipe (``Method.training``), found on the built-in base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from peftbench.methods.record import shown

PAPER, SHARED = "paper", "shared"
TOLD = ("optimizer", "schedule", "warmup_ratio", "weight_decay", "clip_norm", "batch_size", "sequence_length")
"""Training settings that a published recipe may be expected to give, besides how much training and the rate."""


@dataclass(frozen=True)
class Recipe:
    """A method's settings as published."""

    source: str
    """Where they were read."""
    of: str
    """Which model and data they are for."""
    training: Mapping[str, Any]
    """Training settings that the source gives."""
    rank: int | None = None
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    beyond: tuple[str, ...] = ()
    """What else the source has, which is not taken over."""

    @property
    def silent(self) -> tuple[str, ...]:
        """Training settings on which the source says nothing that could be taken over: they are as without it."""
        return tuple(name for name in TOLD if name not in self.training)


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
            beyond=("a start from the class labels, where there are some",),
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
                "the query and value projections alone: name them in target_modules, as the base calls them",
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
"""By method's name. Rates are those of the models and data named: on another base they are no recommendation."""


def training(profile: str | None, method: str, own: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the training settings of a method's recipe under a profile.

    Args:
        profile: ``paper``, ``shared`` or None.
        method: its name.
        own: the recipe of the method's record.
    """
    if profile == SHARED:
        return {}
    return PUBLISHED[method].training if profile == PAPER and method in PUBLISHED else own


def rank(profile: str | None, method: str, own: int | None) -> int | None:
    """Return a method's rank where the suite gives none."""
    found = PUBLISHED.get(method) if profile == PAPER else None
    return found.rank if found and found.rank else own


def options(profile: str | None, method: str) -> Mapping[str, Any]:
    """Return the options that a profile gives beside those of the method's own record."""
    return PUBLISHED[method].options if profile == PAPER and method in PUBLISHED else {}


def told(method: str) -> str:
    """Return a method's published setting in words: where from, what it gives, leaves open and has beyond that."""
    found = PUBLISHED[method]
    settings = {**found.training, **({} if found.rank is None else {"rank": found.rank}), **found.options}
    parts = [f"{', '.join(f'{name} {_shown(value)}' for name, value in settings.items())} ({found.of}; {found.source})"]
    if found.silent:
        parts.append(f"left open: {', '.join(found.silent)}")
    if found.beyond:
        parts.append(f"not taken over: {', '.join(found.beyond)}")
    return "; ".join(parts) + "."


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value)
