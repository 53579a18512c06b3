"""What benchmarks measure: a model of 25 million parameters, methods on it, and batches of random tokens."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from peftbench.methods import METHODS, method_of
from peftbench.models import load
from peftbench.models.precision import PRECISIONS
from peftbench.records.resolve import resolve
from peftbench.training import batches as training_batches
from peftbench.training import loop as training_loop
from tests.support import tiny_base, trials

BATCH, LENGTH = 4, 64
SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "tie_word_embeddings": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
"""25 million parameters."""
PRECISION = {"full": "fp32", "lora": "fp32", "qlora": "nf4"}


def base(folder: Path) -> Path:
    """Write the base model with a tokenizer of 320 tokens, the same at each call."""
    tiny_base.tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    made = LlamaForCausalLM(LlamaConfig(**SHAPE))
    assert 24e6 < made.num_parameters() < 26e6
    made.save_pretrained(folder)
    return folder


def loaded(folder: Path, precision: str, trains_base: bool = False) -> load.Loaded:
    """Return the base model as a trial loads it."""
    return load.load(folder, PRECISIONS[precision], trains_base, True, device="cpu", trust_remote_code=False)


def learner(folder: Path, name: str) -> training_loop.Learner:
    """Return the base model with a method attached, the same at each call."""
    method, precision = METHODS[name], PRECISIONS[PRECISION[name]]
    found = loaded(folder, precision.name, method.trains_base)
    options = {option: setting.default for option, setting in method_of(name, {}).options.items()}
    torch.manual_seed(0)
    tuned = resolve(method.attach)(found.model, None if name == "full" else 8, options | {"alpha": 16.0})
    settings = {"learning_rate": 1e-5, "schedule": "constant", "batch_size": BATCH, "micro_batch_size": BATCH}
    return training_loop.learner(
        tuned,
        load.cast_trainable(tuned, precision),
        trials.replace(trials.TRAINING, **settings),
        precision=precision,
        device="cpu",
        pad_id=found.tokenizer.pad_token_id,
        virtual_tokens=0,
    )


def plan(steps: int) -> list[list[training_batches.Encoded]]:
    """Return steps of examples of random tokens, half as long to full length, the same at each call."""
    draw = random.Random(0)

    def example(index: int) -> training_batches.Encoded:
        ids = tuple(draw.randrange(3, SHAPE["vocab_size"]) for _ in range(draw.randint(LENGTH // 2, LENGTH)))
        return training_batches.Encoded(ids, len(ids) // 2, False, ("made", index))

    return [[example(index) for index in range(BATCH)] for _ in range(steps)]


def clocks() -> tuple[float, float]:
    """Return wall time and this process's CPU time, in seconds."""
    return time.perf_counter(), time.process_time()


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Return the seconds that some work takes, wall and CPU."""
    begin = clocks()
    work()
    end = clocks()
    return end[0] - begin[0], end[1] - begin[1]
