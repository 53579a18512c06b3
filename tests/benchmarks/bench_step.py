"""Our training loop against a bare PyTorch loop: the same model, batches and optimizer, one after the other in turns.

The bare loop does the work that a step is: forward, loss, backward, clipping, optimizer, and it reads loss and
gradient norm. Its batches are made before it begins; ours makes them, counts tokens, reads the clock and how long
threads waited.
"""

from __future__ import annotations

import random
import time

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from peftbench.measure.clock import Clock
from peftbench.methods import METHODS, method_of
from peftbench.models import load
from peftbench.models.precision import PRECISIONS
from peftbench.records.resolve import resolve
from peftbench.training import batches as training_batches
from peftbench.training import loop as training_loop
from peftbench.training import optimizers
from tests.support import trials

ROUNDS, STEPS = 40, 1
"""Turns of each loop, and optimizer steps in a turn."""
BATCH, LENGTH, PAD = 4, 64, 2
SHAPE = {
    "vocab_size": 8192,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "tie_word_embeddings": True,
}
"""25 million parameters."""


def learner(method: str) -> training_loop.Learner:
    """Return a model of the shape with a method attached, the same at each call."""
    torch.manual_seed(0)
    base = LlamaForCausalLM(LlamaConfig(**SHAPE))
    assert 24e6 < base.num_parameters() < 26e6
    if method == "full":
        tuned = base
    else:
        base.requires_grad_(False)
        options = {name: setting.default for name, setting in method_of(method, {}).options.items()} | {"alpha": 16.0}
        tuned = resolve(METHODS[method].attach)(base, 8, options)
    return training_loop.learner(
        tuned,
        load.cast_trainable(tuned, PRECISIONS["fp32"]),
        trials.replace(trials.TRAINING, learning_rate=1e-5, batch_size=BATCH, micro_batch_size=BATCH),
        precision=PRECISIONS["fp32"],
        device="cpu",
        pad_id=PAD,
        virtual_tokens=0,
    )


def plan(steps: int) -> list[list[training_batches.Encoded]]:
    """Return steps of examples of random tokens, half as long to full length, the same at each call."""
    draw = random.Random(0)

    def example(index: int) -> training_batches.Encoded:
        ids = tuple(draw.randrange(3, SHAPE["vocab_size"]) for _ in range(draw.randint(LENGTH // 2, LENGTH)))
        return training_batches.Encoded(ids, len(ids) // 2, False, ("made", index))

    return [[example(index) for index in range(BATCH)] for _ in range(steps)]


def bare(tuned: nn.Module, optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], batches: list) -> None:
    """Train as a short script does."""
    tuned.train()
    for ids, mask, labels in batches:
        logits = tuned(input_ids=ids, attention_mask=mask, use_cache=False).logits
        loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item(), norm.item()


@pytest.mark.parametrize("method", ["full", "lora"])
def bench_a_training_step_against_a_bare_loop(method, benchmark, record_line):
    ours, theirs = learner(method), learner(method)
    optimizer = optimizers.make(theirs.parameters, theirs.training)
    steps = plan(STEPS)
    batches = [training_batches.collate(examples, PAD) for examples in steps]
    tensors = [(b.ids, b.mask, b.labels) for b in batches]
    turns: list[tuple[float, float, float, float]] = []  # wall and CPU seconds: bare, ours

    def clocks() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()

    def first() -> tuple[tuple, dict]:
        begin = clocks()
        bare(theirs.model, optimizer, list(theirs.parameters), tensors)
        end = clocks()
        turns.append((end[0] - begin[0], end[1] - begin[1], 0.0, 0.0))
        return (), {}

    def loop() -> None:
        begin = clocks()
        training_loop.train(ours, steps, [], Clock(), lambda *_: None)
        end = clocks()
        turns[-1] = (*turns[-1][:2], end[0] - begin[0], end[1] - begin[1])

    benchmark.pedantic(loop, setup=first, rounds=ROUNDS, warmup_rounds=2)
    measured = turns[-ROUNDS:]
    for kind, column in (("wall time", 0), ("CPU time", 1)):
        pairs = [(turn[column], turn[column + 2]) for turn in measured]
        record_line(f"training step, {method}: our loop / bare PyTorch loop, {kind}", pairs, "ratio", "at most 1.03")
