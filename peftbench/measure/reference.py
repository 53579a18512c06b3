"""A fixed training step, timed beside each trial's own steps: how fast the machine trains at that moment.

The step is of a small transformer in plain torch: forward pass, backward pass and AdamW's update. Speeds of two nights
compare relative to it, so this code stays as it is; a test keeps its loss. Nothing of a trial is in it, and it draws no
random numbers but from a generator of its own. Its tensors take 9.4 MB at their peak. The process keeps 11.9 MB with
one thread and 12.8 MB with two (torch 2.13, the libraries loaded before), which the meanings of the columns of resident
memory state.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from contextlib import suppress

import torch
from torch.nn import functional

WIDTH, HEADS, INNER, LAYERS, VOCABULARY = 128, 4, 384, 2, 512
"""Sizes of the transformer, those of the built-in base but for fewer layers and a smaller vocabulary."""
ROWS, LENGTH = 8, 16
"""Sequences and tokens in a batch."""
_SECONDS, _LEAST = 0.1, 5
"""How long steps are timed at least, and how many."""
Weights = dict[str, torch.Tensor]


def weights() -> tuple[Weights, torch.Tensor]:
    """Return the step's weights and its token IDs of shape (rows, length), the same ones each time."""
    drawn = torch.Generator().manual_seed(0)
    shapes = {"tokens": (VOCABULARY, WIDTH)}
    for layer in range(LAYERS):
        shapes |= {f"{layer}.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value", "out")}
        shapes |= {f"{layer}.{name}": (INNER, WIDTH) for name in ("gate", "up")}
        shapes[f"{layer}.down"] = (WIDTH, INNER)
    made = {name: (0.06 * torch.randn(*shape, generator=drawn)).requires_grad_() for name, shape in shapes.items()}
    return made, torch.randint(VOCABULARY, (ROWS, LENGTH), generator=drawn)


def loss(of: Weights, ids: torch.Tensor) -> torch.Tensor:
    """Return the mean cross-entropy of the next tokens, in nats."""
    hidden = functional.embedding(ids, of["tokens"])
    for layer in range(LAYERS):
        inner = functional.rms_norm(hidden, (WIDTH,))
        heads = [
            functional.linear(inner, of[f"{layer}.{name}"]).view(ROWS, LENGTH, HEADS, -1).transpose(1, 2)
            for name in ("query", "key", "value")
        ]
        mixed = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        hidden = hidden + functional.linear(mixed.transpose(1, 2).reshape(ROWS, LENGTH, WIDTH), of[f"{layer}.out"])
        inner = functional.rms_norm(hidden, (WIDTH,))
        gated = functional.silu(functional.linear(inner, of[f"{layer}.gate"]))
        hidden = hidden + functional.linear(gated * functional.linear(inner, of[f"{layer}.up"]), of[f"{layer}.down"])
    logits = functional.linear(functional.rms_norm(hidden, (WIDTH,)), of["tokens"])
    return functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def step_seconds() -> list[float] | None:
    """Return the durations of several reference steps on the CPU, with the threads of this process.

    They take about a tenth of a second. None if they fail in any way, for lack of memory or another reason: no trial
    ends for them.
    """
    with suppress(Exception):
        of, ids = weights()
        optimizer = torch.optim.AdamW(of.values(), lr=1e-3)
        found: list[float] = []
        begin = time.perf_counter()
        while len(found) <= _LEAST or time.perf_counter() - begin < _SECONDS:
            start = time.perf_counter()
            loss(of, ids).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            found.append(time.perf_counter() - start)
        return found[1:]  # the first one loads what the others find loaded
    return None


def typical(before: Sequence[float] | None, after: Sequence[float] | None) -> float | None:
    """Return the duration of a step between two moments, in seconds; None unless both were timed."""
    if not before or not after:
        return None
    return (statistics.median(before) + statistics.median(after)) / 2
