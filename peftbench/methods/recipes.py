"""Published recipes of methods: the settings of a paper or repository, as data with their source. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

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


_LIT_LLAMA_FULL = Recipe(
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
)
_METAMATH = {
    "learning_rate": 2e-5,
    "schedule": "cosine",
    "warmup_ratio": 0.03,
    "epochs": 1,
    "batch_size": 128,
    "weight_decay": 0.0,
    "sequence_length": 512,
}
_HF_METAMATHQA = {
    "optimizer": "adamw",
    "schedule": "cosine",
    "warmup_ratio": 0.1,  # WARMUP_STEP_RATIO in utils.py
    "steps": 5000,
    "batch_size": 4,
    "weight_decay": 0.1,
    "clip_norm": 1.0,
    "sequence_length": 768,
    "loss_on": "all",  # run.py: labels are the input ids
    "group_by_length": True,  # BucketIterator in utils.py
}
_LLM_ADAPTERS = "AGI-Edgerunners/LLM-Adapters (81665720)"
_LLM_ADAPTERS_TARGETS = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]

RECIPES: Mapping[str, Mapping[str, Recipe]] = MappingProxyType(
    {
        "paper": MappingProxyType(
            {
                "full": _LIT_LLAMA_FULL,
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
        ),
        "lit-llama": MappingProxyType(
            {
                "full": _LIT_LLAMA_FULL,
                "lora": Recipe(
                    source="Lightning-AI/lit-llama, finetune/lora.py (2a464de2)",
                    of="LLaMA 7B on Alpaca",
                    training={
                        "learning_rate": 3e-4,
                        "optimizer": "adamw",
                        "schedule": "constant",
                        "batch_size": 128,
                        "epochs": 3,
                        "weight_decay": 0.0,
                        "clip_norm": None,
                        "sequence_length": 256,
                    },
                    rank=8,
                    options={"alpha": 16.0, "dropout": 0.05},
                    beyond=(
                        "a warm-up of 100 iterations",
                        "micro-batches of 4",
                        "adapting only the query and value projections: list their names in target_modules",
                    ),
                ),
                "llama_adapter": Recipe(
                    source="Lightning-AI/lit-llama, finetune/adapter.py (2a464de2)",
                    of="LLaMA 7B on Alpaca",
                    training={
                        "learning_rate": 9e-3,
                        "epochs": 5,
                        "warmup_ratio": 0.4,  # 2 of 5 epochs
                        "batch_size": 64,
                        "weight_decay": 0.02,
                        "sequence_length": 256,
                    },
                    rank=10,
                    beyond=("micro-batches of 4",),
                ),
            }
        ),
        "llm-adapters-math": MappingProxyType(
            {
                "lora": Recipe(
                    source=f"{_LLM_ADAPTERS}, math_running_commands",
                    of="LLaMA 7B on math_10k",
                    training={
                        "learning_rate": 3e-4,
                        "epochs": 3,
                        "batch_size": 16,
                        "sequence_length": 256,
                        "loss_on": "all",
                    },
                    rank=32,
                    options={"alpha": 64.0, "target_modules": _LLM_ADAPTERS_TARGETS},
                    beyond=("a base in fp16", "micro-batches of 4"),
                ),
                "prefix_tuning": Recipe(
                    source=f"{_LLM_ADAPTERS}, math_running_commands",
                    of="LLaMA 7B on math_10k",
                    training={
                        "learning_rate": 3e-2,
                        "epochs": 5,
                        "batch_size": 8,
                        "sequence_length": 256,
                        "loss_on": "all",
                    },
                    rank=10,
                    beyond=(
                        "a base in fp16",
                        "micro-batches of 4",
                        "the best of the weights on 120 validation examples",
                    ),
                ),
            }
        ),
        "llm-adapters-commonsense": MappingProxyType(
            {
                "lora": Recipe(
                    source=f"{_LLM_ADAPTERS}, issues 38 and 45",
                    of="LLaMA 7B on commonsense_170k",
                    training={
                        "learning_rate": 3e-4,
                        "optimizer": "adamw",
                        "epochs": 3,
                        "batch_size": 16,
                        "sequence_length": 256,
                        "loss_on": "all",
                    },
                    rank=32,
                    options={"alpha": 64.0, "dropout": 0.05, "target_modules": _LLM_ADAPTERS_TARGETS},
                    beyond=(
                        "a warm-up of 100 steps",
                        "a base in fp16",
                        "micro-batches of 4",
                        "the best of the weights on 120 validation examples",
                    ),
                ),
            }
        ),
        "pissa-metamath": MappingProxyType(
            {
                "full": Recipe(
                    source="GraphPKU/PiSSA, scripts/metamath_llama2_7b (87f4db6f)",
                    of="LLaMA-2 7B on MetaMathQA-100k",
                    training=_METAMATH,
                    beyond=("8 devices with micro-batches of 2",),
                ),
                "lora": Recipe(
                    source="GraphPKU/PiSSA, scripts/metamath_llama2_7b (87f4db6f)",
                    of="LLaMA-2 7B on MetaMathQA-100k",
                    training=_METAMATH,
                    rank=128,
                    options={"alpha": 128.0, "dropout": 0.0, "target_modules": "all-linear"},
                    beyond=(
                        "8 devices with micro-batches of 4",
                        "PiSSA's pissa_niter_16: add initialization: pissa, an exact decomposition",
                    ),
                ),
            }
        ),
        "lora-ga-metamath": MappingProxyType(
            {
                "lora": Recipe(
                    source="Outsider565/LoRA-GA, reproduce/conf and reproduce/utils.py (89af7de5)",
                    of="LLaMA-2 7B on MetaMathQA",
                    training=_METAMATH
                    | {"learning_rate": 1e-5, "optimizer": "adamw", "batch_size": 32, "sequence_length": 1024},
                    options={
                        "alpha": 16.0,
                        "target_modules": "all-linear",
                        "initialization": "lora_ga",
                        "rslora": True,
                    },
                    beyond=(
                        "a gradient of 8 examples: here of those of the first step",
                        "the rank, which its command line gives",
                    ),
                ),
            }
        ),
        "hf-metamathqa": MappingProxyType(
            {
                "full": Recipe(
                    source="huggingface/peft, method_comparison/MetaMathQA (5261e958)",
                    of="Llama-3.2 3B on MetaMathQA",
                    # the result file gives no weight decay, so that of torch's AdamW holds
                    training=_HF_METAMATHQA | {"learning_rate": 1e-5, "weight_decay": 0.01},
                    beyond=("weights and optimizer state in bf16: precision bf16-true", "evaluation every 250 steps"),
                ),
                "lora": Recipe(
                    source="huggingface/peft, method_comparison/MetaMathQA (5261e958)",
                    of="Llama-3.2 3B on MetaMathQA",
                    training=_HF_METAMATHQA | {"learning_rate": 1e-4},
                    rank=32,
                    options={"alpha": 64.0, "target_modules": ["q_proj", "v_proj"]},
                    beyond=("evaluation every 250 steps",),
                ),
            }
        ),
    }
)
"""Profile -> method -> published settings. Rates are for the model and data named, and no advice for others."""
