"""The work of a training step, as the FLOPs of its matrix products, and the rate at which the device can do them.

A FLOP is one multiplication or one addition. What is executed is counted: the recomputation of gradient checkpointing
is included, gradients of frozen weights are not, and a quantized layer counts as the dense product that it represents.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch._ops import HigherOrderOperator, OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from peftbench.models.precision import Precision
from peftbench.records import failures
from peftbench.records.columns.effective import EffectiveColumns
from peftbench.records.columns.work import WorkColumns
from peftbench.training import compiling, host_step, loop, offloading, several_optimizers, turns
from peftbench.training.encoded import Encoded
from peftbench.training.loop import Learner
from peftbench.training.matmuls import operations

_ATTENTION = re.compile("attention|flash|flex")
_SIZES = {"cpu": 512, "cuda": 8192}
"""Rows and columns of the square matrices whose product measures a device's rate."""
_SECONDS = 0.1
"""How long the rate is measured."""


class Products(TorchDispatchMode):
    """Counts the FLOPs of matrix products while it is active, and collects the names of fused attention operators."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.attention: set[str] = set()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Let layers that were compiled before run as compiled."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator and count it."""
        out = func(*args, **(kwargs or {}))
        self.operations += operations(func, args, kwargs or {}, out)
        if isinstance(func, HigherOrderOperator):  # of compiled code: it calls an operator with the random state
            func = next((each for each in args if isinstance(each, OpOverload)), None)
        name = func._overloadpacket.__name__.lstrip("_") if func is not None else ""
        if _ATTENTION.search(name) and "backward" not in name:
            self.attention.add(name)
        return out


def columns(learner: Learner, step_examples: Sequence[Sequence[Encoded]]) -> tuple[WorkColumns, EffectiveColumns]:
    """Return a step's work and the device's rate, and the kernels of its attention, as columns of the trial's row."""
    step = typical_step(step_examples)
    found = turns.of(learner.model)
    counted = []
    with turns.kept(learner.model, learner.optimizer):
        for layers in found.extremes if found else (None,):
            if layers is not None:
                turns.hold(learner.model, learner.optimizer, layers)
            products, tokens = passes(learner, step)
            counted.append(products.operations)
    if learner.compiled is not None:  # of which the operators within compiled code are another matter
        with compiling.running(learner.compiled), compiling.counted(learner.compiled):
            products, _ = passes(learner, step)
    work = WorkColumns(
        train_flops_per_token=sum(counted) / len(counted) / tokens,
        device_flops_per_second=matrix_rate(learner.precision, learner.device),
    )
    return work, EffectiveColumns(attention_kernels=", ".join(sorted(products.attention)) or "eager")


def typical_step(step_examples: Sequence[Sequence[Encoded]]) -> Sequence[Encoded]:
    """Return the step with the median number of data tokens, because the share of attention grows with length."""
    return sorted(step_examples, key=lambda step: sum(len(e.ids) for e in step))[len(step_examples) // 2]


def passes(learner: Learner, step: Sequence[Encoded]) -> tuple[Products, int]:
    """Run a step's forward and backward passes; return the counted FLOPs and the processed tokens.

    FLOPs per processed token (padding and virtual tokens included) are about 6 N for full fine-tuning, where N is the
    number of parameters without the embedding. With a frozen base model they are about 4 N plus those of the adapter,
    because frozen weights need no gradient. The passes are extra ones without an optimizer step; their gradients are
    dropped and the random state is restored.

    References:
        Kaplan et al. 2020, arXiv:2001.08361, section 2.1, for 6 N.
    """
    batches = loop.step_batches(learner, step)
    cuda = [torch.cuda.current_device()] if learner.device == "cuda" else []
    with torch.random.fork_rng(devices=cuda), Products() as products:
        learner.model.train()
        every = host_step.takes(learner)
        with several_optimizers.dropping(learner.optimizer, learner.parameters, every), offloading.saved(learner):
            learner.parallel.work(learner, batches, loop.batch_loss)
    products.operations = learner.parallel.all_work(products.operations)
    learner.optimizer.zero_grad(set_to_none=True)
    return products, sum(b.ids.numel() + learner.virtual_tokens * b.ids.shape[0] for b in batches)


def matrix_rate(precision: Precision, device: str) -> float | None:
    """Return the FLOPs per second of the device's best square matrix product in a precision's compute type.

    It is the reference for a step's rate (MFU). It is measured, for a tenth of a second with the threads of this
    process, rather than taken from a data sheet. The matrices are random, because constant ones need less power and let
    a GPU run faster. None if too little memory is left for them.
    """
    dtype = getattr(torch, precision.autocast or precision.trainable)
    side = _SIZES[device]
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    try:
        drawn = torch.Generator(device).manual_seed(0)
        one, other = (torch.randn(side, side, dtype=dtype, device=device, generator=drawn) for _ in range(2))
        out = one @ other  # warm-up: the first product loads libraries
        wait()
        best, begin = float("inf"), time.perf_counter()
        while time.perf_counter() - begin < _SECONDS:
            start = time.perf_counter()
            torch.mm(one, other, out=out)
            wait()
            best = min(best, time.perf_counter() - start)
    except RuntimeError as error:
        if failures.out_of_memory(error):
            return None
        raise
    return 2 * side**3 / best
