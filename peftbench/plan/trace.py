"""One training step on fake tensors under the accountant, with its peak told apart by window.

A window is the time between two places of the step that can be found again in a deeper model: the forward pass of one
block, its backward pass, one kind of operator after the backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from peftbench import train
from peftbench.data import Batch
from peftbench.measure import work
from peftbench.measure.ledger import Book, account
from peftbench.methods import method_of
from peftbench.model import parameter_count, quantization_tensors
from peftbench.plan import fake
from peftbench.plan.record import Pass
from peftbench.plan.stored import stored_bytes
from peftbench.precision import effective
from peftbench.records import Trial

Window = tuple[Any, ...]
"""Kind, the block's place (None outside of blocks), the forward pass's number, which time the place is met."""


@dataclass(frozen=True)
class Traced:
    """What a traced step shows. Every number is linear in the number of layers."""

    windows: Mapping[Window, Mapping[str, int]]
    """Bytes by category at the highest moment of each window."""
    totals: Mapping[str, int]
    """Parameters, bytes and operations of the whole model and step, by name."""


def trace(trial: Trial, config: Any, passes: Sequence[Pass]) -> Traced:
    """Build a trial's model without weights, attach its method and take one training step.

    Args:
        trial: what to trace.
        config: the base's config, of the depth to trace.
        passes: the step's forward passes.
    """
    assert trial.training is not None
    method, precision = method_of(trial.method, trial.options), effective(trial.precision, trial.options)
    made = fake.base(trial, config, precision)
    totals = {
        "base_parameters": sum(map(parameter_count, made.parameters())),
        "base_weights_bytes": _bytes(*made.parameters(), *quantization_tensors(made)),
    }
    tuned = fake.attach(made, trial)
    with fake.fake_tensors(any(p.padded for p in passes)):
        fake.materialize(tuned)
        parameters = [p for p in tuned.parameters() if p.requires_grad]
        totals["trainable_parameters"] = sum(p.numel() for p in parameters)
        totals["checkpoint_bytes"] = stored_bytes(tuned, trial)
        learner = train.learner(
            tuned, parameters, trial.training, precision=precision, device="cpu", pad_id=0, virtual_tokens=0
        )
        _fill_optimizer(learner)
        batches = [_batch(p) for p in passes]
        tuned.train()
        with account(tuned, method.trains_base, learner.optimizer.state) as book:
            windows = _Windows(book)
            _mark(tuned, config.get_text_config().num_hidden_layers, windows)
            operators = _Operators(windows)
            with operators:
                train.step(learner, batches, trial.training.learning_rate)
            windows.close()
    return Traced(windows.peaks, totals | {"flops": operators.flops})


def _bytes(*tensors: torch.Tensor) -> int:
    """Return the bytes of tensors, each storage once."""
    return sum({s._cdata: s.nbytes() for s in (t.untyped_storage() for t in tensors)}.values())


def _fill_optimizer(learner: train.Learner) -> None:
    """Make the state that optimizer and scaler have after the first step; a real trial is accounted after its last."""
    for parameter in learner.parameters:
        parameter.grad = torch.empty_like(parameter)
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    learner.scaler.scale(torch.zeros(()))


def _batch(shape: Pass) -> Batch:
    ids = torch.zeros(shape.examples, shape.tokens, dtype=torch.long)
    return Batch(ids, torch.ones_like(ids), torch.zeros_like(ids))


class _Windows:
    """The peaks of a book, window by window."""

    def __init__(self, book: Book) -> None:
        self.book = book
        self.peaks: dict[Window, dict[str, int]] = {}
        self.forward_pass = 0
        self._window: Window = ("start", None)
        self._met: dict[Window, int] = {}

    def enter(self, kind: str, place: int | None = None, count: bool = True) -> None:
        """Begin a window; the one before ends."""
        self.close()
        window = (kind, place, self.forward_pass)
        if count:
            self._met[window] = self._met.get(window, 0) + 1
        self._window = (*window, self._met.get(window, 0))

    def close(self) -> None:
        """End a window: keep its peak if it is the window's highest, and begin to look anew."""
        book = self.book
        if book.peak_bytes > sum(self.peaks.get(self._window, {}).values()):
            self.peaks[self._window] = book.peak
        book.peak_bytes, book.peak = sum(book.live.values()), dict(book.live)


def blocks(model: nn.Module, depth: int) -> list[nn.Module]:
    """Return the blocks of a model, from the lowest: the first list of ``depth`` modules."""
    return next(list(m) for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == depth)


def _mark(model: nn.Module, depth: int, windows: _Windows) -> None:
    """Begin a window wherever a forward pass, a block, or a block's backward pass begins or ends."""

    def next_pass(*_: Any) -> None:
        windows.forward_pass += 1
        windows.enter("embed")

    def before(place: int) -> Any:
        return lambda *_: windows.enter("recompute" if _in_backward() else "forward", place)

    def after(place: int) -> Any:
        def mark(module: nn.Module, args: Any, output: Any) -> None:
            windows.enter("recomputed" if _in_backward() else "after", place)
            first = output[0] if isinstance(output, tuple) else output
            if first.requires_grad and not _in_backward():
                first.register_hook(lambda _: windows.enter("backward", place))

        return mark

    model.register_forward_pre_hook(next_pass)
    for place, block in enumerate(blocks(model, depth)):
        block.register_forward_pre_hook(before(place))
        block.register_forward_hook(after(place))


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


class _Operators(TorchDispatchMode):
    """Counts products, and begins a window with each kind of operator that follows the backward pass."""

    def __init__(self, windows: _Windows) -> None:
        super().__init__()
        self.flops = 0
        self._windows = windows
        self._backward_seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operator."""
        if _in_backward():
            self._backward_seen = True
        elif self._backward_seen:
            self._windows.enter(func.name(), count=False)
        out = func(*args, **(kwargs or {}))
        self.flops += work.operations(func, args, kwargs or {}, out)
        return out
