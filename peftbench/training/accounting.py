"""Peak memory of training and of evaluation: by tensor accounting on the CPU, by the allocator on CUDA."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from peftbench.measure.ledger import CATEGORIES, Book, account
from peftbench.records import Training
from peftbench.training import loop, packing
from peftbench.training.batches import Encoded, micro_batches
from peftbench.training.loop import Learner


def largest_steps(plan: Sequence[Sequence[Encoded]], training: Training, virtual: int = 0) -> list[Sequence[Encoded]]:
    """Return the steps in one of which is the run's peak, but for the inputs of other passes; mostly it is one.

    It is looked for by the most tokens in a forward pass, by the most pairs of them, which unfused attention holds, and
    by those under a mask; and among a step's later passes, while which there are gradients, before its first one.
    """
    known = [[packing.sizes(rows, virtual) for rows in packing.forward_passes(step, training)] for step in plan]
    found: dict[int, Sequence[Encoded]] = {}
    for kind in range(len(known[0][0])):
        largest = 0
        for passes in ([each[1:] for each in known], [each[:1] for each in known]):
            sizes = [max((size[kind] for size in each), default=0) for each in passes]
            if max(sizes) > largest:
                largest = max(sizes)
                found.setdefault(sizes.index(largest), plan[sizes.index(largest)])
    return list(found.values())


def account_steps(learner: Learner, steps: Sequence[Sequence[Encoded]], trains_base: bool) -> Book:
    """Return the book of the step with the highest peak."""
    return max((account_step(learner, step, trains_base) for step in steps), key=lambda book: book.peak_bytes)


def account_step(learner: Learner, step: Sequence[Encoded], trains_base: bool) -> Book:
    """Take one more training step under the accountant and undo it: weights, optimizer and random state return."""
    batches = [b.to(learner.device) for b in micro_batches(step, learner.training, learner.pad_id)]
    with _undone(learner), account(learner.model, trains_base, learner.optimizer.state) as book:
        learner.model.train()
        held = sum(book.live.values())
        with _allocations(learner.device) as peaks:
            loop.step(learner, batches, learner.training.learning_rate)
    book.allocated_bytes = held + peaks[0]
    return book


@contextmanager
def _allocations(device: str) -> Iterator[list[int]]:
    """Yield a list that gets the highest sum of what is allocated within the context, by the allocator's own count.

    So what an operator allocates and frees inside itself is seen too, which the accountant cannot see.
    """
    found: list[int] = []
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield found
        torch.cuda.synchronize()
        found.append(torch.cuda.max_memory_allocated() - before)
        return
    with torch.autograd.profiler.profile(use_kineto=True, profile_memory=True) as profiler:
        yield found
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    found.append(max(itertools.accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())), default=0))


@contextmanager
def _undone(learner: Learner) -> Iterator[None]:
    """Restore, bit for bit, whatever a training step changes."""
    weights = [p.detach().clone() for p in learner.parameters]
    state = {p: _copied(entry) for p, entry in learner.optimizer.state.items()}
    rates = [group["lr"] for group in learner.optimizer.param_groups]
    scaler = learner.scaler.state_dict()
    devices = [torch.cuda.current_device()] if learner.device == "cuda" else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            for parameter, kept in zip(learner.parameters, weights, strict=True):
                parameter.copy_(kept)
            for parameter, entry in state.items():
                _put_back(learner.optimizer.state[parameter], entry)
        for group, rate in zip(learner.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        learner.scaler.load_state_dict(scaler)


def _copied(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in entry.items()}


def _put_back(entry: dict[str, Any], kept: dict[str, Any]) -> None:
    """Give a parameter's state its old values, in the tensors that it has: a paged one is more than its values."""
    for name, value in kept.items():
        if isinstance(value, torch.Tensor):
            entry[name].copy_(value)
        else:
            entry[name] = value


def train_columns(book: Book) -> dict[str, int]:
    """Return a training step's peak and its categories as columns of the trial's row."""
    columns = {"peak_train_bytes": book.peak_bytes} | {f"peak_{name}_bytes": book.peak[name] for name in CATEGORIES}
    if book.allocated_bytes is not None:
        columns["peak_unexplained_bytes"] = book.allocated_bytes - book.peak_bytes
    return columns
