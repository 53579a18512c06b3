"""Peak memory of a training step on the CPU, by category, measured in an extra step that is then undone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd import profiler as autograd_profiler

from peftbench.measure import optimizer_state
from peftbench.measure.ledger import CategoryBytes, account
from peftbench.records import Category, Training
from peftbench.records.columns.memory import MemoryColumns
from peftbench.training import compiling, host_step, loop, optimizers, packing, turns
from peftbench.training.encoded import Encoded
from peftbench.training.loop import Learner


def largest_steps(
    step_examples: Sequence[Sequence[Encoded]], training: Training, virtual: int = 0
) -> list[Sequence[Encoded]]:
    """Return the steps among which is the one with the highest memory peak; usually a single step.

    Candidates have the forward pass with the most tokens, with the most pairs of tokens (which unfused attention
    holds), with the most pairs under a mask and, where logits depend on it, with the most tokens in the loss. Later
    passes of a step come before its first one, because gradients already exist during them. Not considered are the
    inputs of a step's other passes, which are in memory too.

    Args:
        step_examples: the examples of each step.
        training: how they are divided into forward passes.
        virtual: virtual tokens that the method puts before each row.
    """
    known = [
        [packing.sizes(rows, virtual, training.logits) for rows in packing.forward_passes(step, training)]
        for step in step_examples
    ]
    found: dict[int, Sequence[Encoded]] = {}
    for kind in range(len(known[0][0])):
        largest = 0
        for passes in ([each[1:] for each in known], [each[:1] for each in known]):
            sizes = [max((size[kind] for size in each), default=0) for each in passes]
            if max(sizes) > largest:
                largest = max(sizes)
                found.setdefault(sizes.index(largest), step_examples[sizes.index(largest)])
    return list(found.values())


def account_steps(learner: Learner, steps: Sequence[Sequence[Encoded]], trains_base: bool) -> CategoryBytes:
    """Return the bytes by category of the step with the highest peak, in the turn with the highest if any."""
    found = turns.of(learner.model)
    if found is None:
        return max((account_step(learner, step, trains_base) for step in steps), key=lambda each: each.peak_bytes)
    counted = []
    with turns.kept(learner.model, learner.optimizer):
        for layers in found.extremes:
            turns.hold(learner.model, learner.optimizer, layers)
            with _undone(learner):  # a step that makes the state which all later steps of the turn find
                loop.step(learner, loop.step_batches(learner, steps[0]), learner.training.learning_rate)
            counted += [account_step(learner, step, trains_base) for step in steps]
    return max(counted, key=lambda each: each.peak_bytes)


def account_step(learner: Learner, step: Sequence[Encoded], trains_base: bool) -> CategoryBytes:
    """Take one more training step under the ledger, and undo it: weights, optimizer and random state are restored."""
    batches = loop.step_batches(learner, step)
    with _undone(learner), _counted(learner, trains_base) as counted:
        learner.model.train()
        optimizers.to_training(learner.optimizer)
        held = sum(counted.live.values())
        with _allocations(learner) as peaks, compiling.counted(learner.compiled):
            loop.step(learner, batches, learner.training.learning_rate)
    if learner.device == "cuda" or not counted.offloaded_peak:  # else the copies are of the same memory
        counted.allocated_bytes = held + peaks[0]
    return counted


def _counted(learner: Learner, trains_base: bool) -> Any:
    """Return the ledger's context of a step."""
    held = learner.parallel.exchanged()
    host = host_step.held(learner)
    compiled = learner.compiled is not None
    state = learner.optimizer.state
    return account(learner.model, trains_base, state, gradients=held, host=host, compiled=compiled)


@contextmanager
def _allocations(learner: Learner) -> Iterator[list[int]]:
    """Yield a list that receives the peak of the bytes allocated within the context, by the allocator's own count.

    This includes what an operator allocates and frees internally, which the ledger cannot see.
    """
    found: list[int] = []
    if learner.device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield found
        torch.cuda.synchronize()
        found.append(torch.cuda.max_memory_allocated() - before)
        return
    counted = _Allocated()
    alone = learner.parallel.count == 1  # what gloo has begun and not ended keeps pointers into the profiler
    hooks = [learner.model.register_forward_pre_hook(lambda *_: counted.begin())] if alone else []
    counted.begin()
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
        counted.end()
    found.append(counted.peak)


class _Allocated:
    """What torch's profiler sees of the CPU's allocator, read in parts: of many passes together it takes gigabytes."""

    def __init__(self) -> None:
        self.live, self.peak = 0, 0
        self._profiler: Any = None

    def begin(self) -> None:
        """Begin a part, and end the one before it."""
        self.end()
        self._profiler = _AllocationsOnly(use_kineto=True, profile_memory=True)
        self._profiler.__enter__()

    def end(self) -> None:
        """Add the part's allocations to those before it."""
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.__exit__(None, None, None)
        events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
        for event in sorted(events, key=lambda e: e.start_ns()):
            self.live += event.nbytes()
            self.peak = max(self.peak, self.live)


class _AllocationsOnly(autograd_profiler.profile):
    """Torch's profiler without its record of operators, which takes several times the memory of the allocations'."""

    def _start_trace(self) -> None:
        self.entered = True
        self.profiling_start_time_ns = time.perf_counter_ns()
        # a scope that nothing has here; allocations have none. Messages of gloo, which outlive a part, have USER_SCOPE
        only = {torch._C._profiler.RecordScope.STATIC_RUNTIME_MODEL}
        start: Any = torch.autograd._enable_profiler  # its stub lacks the scopes
        start(self.config(create_trace_id=False), self.kineto_activities, only)


@contextmanager
def _undone(learner: Learner) -> Iterator[None]:
    """Restore, bit for bit, everything that a training step changes."""
    weights = [p.detach().clone() for p in learner.parameters]
    state = {p: _copied(entry) for p, entry in learner.optimizer.state.items()}
    settings = optimizer_state.settings(learner.optimizer)
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
        optimizer_state.set_settings(learner.optimizer, settings)
        learner.scaler.load_state_dict(scaler)


def _copied(entry: dict[str, Any]) -> dict[str, Any]:
    flat = optimizer_state.flat(entry)
    return {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in flat.items()}


def _put_back(entry: dict[str, Any], kept: dict[str, Any]) -> None:
    """Copy a parameter's old state into its existing tensors: a paged tensor cannot be replaced by an ordinary one."""
    now = optimizer_state.flat(entry)
    for name, value in kept.items():
        if isinstance(value, torch.Tensor):
            now[name].copy_(value)
        else:
            optimizer_state.put(entry, name, value)


def train_columns(counted: CategoryBytes) -> MemoryColumns:
    """Return a training step's peak and its categories as columns of the trial's row."""
    categories: dict[str, Any] = {category.column: counted.peak[category] for category in Category}
    allocated = counted.allocated_bytes
    unexplained = None if allocated is None else allocated - counted.peak_bytes
    return MemoryColumns(
        peak_train_bytes=counted.peak_bytes,
        peak_unexplained_bytes=unexplained,
        peak_offloaded_bytes=counted.offloaded_peak,
        **categories,
    )
