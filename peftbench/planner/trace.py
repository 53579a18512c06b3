"""Trace one training step on fake tensors under the memory ledger, with a peak for each window of the step.

A window is a part of the step that a deeper model has too: the forward pass of one decoder layer, its backward pass, or
what follows the backward pass.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from peftbench.measure.ledger import CategoryBytes, account
from peftbench.methods import method_of
from peftbench.models import head
from peftbench.models.layers import decoder_layers
from peftbench.models.load import trainable_parameters
from peftbench.models.precision import Precision, effective
from peftbench.models.storage import parameter_count, parts, quantization_tensors
from peftbench.planner import cuda_reserve, fake, loading
from peftbench.planner.records import Pass
from peftbench.planner.saved_size import stored_bytes
from peftbench.records import Trial
from peftbench.training import batches, host_step, logits, loop, matmuls, optimizers, turns
from peftbench.training.batches import Batch
from peftbench.training.parallel import ALONE, Parallel

Window = tuple[Any, ...]
"""Kind, the layer's index (None outside of layers), the forward pass's number, and a count of repetitions."""
_LAYER = re.compile(r"\.\d+(?=\.)")
"""Numbers in a parameter's name, of which the layer's is one."""
Moment = tuple[str, Mapping[str, int]]
"""An operator, and the bytes by category at the peak between its start and the next operator's."""


@dataclass(frozen=True)
class Traced:
    """The result of a traced step. Every number is linear in the number of decoder layers."""

    windows: Mapping[Window, Sequence[Moment]]
    totals: Mapping[str, int]
    """Parameters, bytes and operations of the whole model and step, by name."""
    attention: str
    """The same as ``Prediction.attention``."""
    loading: Mapping[Window, Sequence[Moment]]
    """The bytes by category while the base model is loaded, a window for each decoder layer; empty if not known."""
    host: Mapping[Window, Sequence[Moment]]
    """As ``windows``: the bytes on the host, which have one category."""


def trace(trial: Trial, config: Any, passes: Sequence[Pass], parallel: Parallel = ALONE, turn: int = 0) -> Traced:
    """Build a trial's model without weights, attach its method and run one training step.

    Args:
        trial: the trial to trace.
        config: the base model's config, at the depth to trace.
        passes: the step's forward passes.
        parallel: the strategy for several devices as the traced rank sees it.
        turn: place of the traced turn in ``Turns.extremes``, for layers that train in turns.
    """
    assert trial.training is not None
    method, precision = method_of(trial.method, trial.options), effective(trial.precision, trial.options)
    made = fake.base(trial, config, precision)
    apart = head.apart(made)
    own = [p for p in made.parameters() if id(p) not in apart]
    totals = {
        "base_parameters": sum(map(parameter_count, own)),
        "base_weights_bytes": _bytes(*(parts(p)[0] for p in own), *quantization_tensors(made)),
    }
    loaded = _loading(made, trial, precision)
    tuned = fake.attach(made, trial)
    with fake.fake_tensors(any(p.padded for p in passes)):
        with fake.Answers():
            fake.materialize(tuned)
            totals["trainable_parameters"] = trainable_parameters(tuned)
            totals["checkpoint_bytes"] = stored_bytes(tuned, trial)
            learner = _learner(tuned, trial, precision, parallel, turn)
            each = parallel.as_run([_batch(p, trial) for p in passes], 0)
            if parallel.count > 1:  # a trial counts memory after training, and buckets are made by its first step
                loop.step(learner, each, trial.training.learning_rate)
        with account(
            tuned,
            method.trains_base,
            learner.optimizer.state,
            cuda_reserve.rounding(trial.device),
            parallel.exchanged(),
            host_step.held(learner),
        ) as counted:
            windows = _Windows(counted)
            _mark(tuned, windows)
            with _Operators(windows) as operators:
                loop.step(learner, each, trial.training.learning_rate)
            windows.next("")
    totals["flops"] = operators.flops
    return Traced(windows.moments, totals, operators.attention, loaded, windows.host)


def _loading(made: nn.Module, trial: Trial, precision: Precision) -> Mapping[Window, Sequence[Moment]]:
    """Return the windows of loading; none if a rank loads a part, or a model's code prevents it."""
    if trial.devices is not None and trial.devices.strategy != "ddp":
        return {}
    dtype = getattr(torch, precision.base_weights(method_of(trial.method, trial.options).trains_base))
    rounding = cuda_reserve.rounding(trial.device)
    found: dict[Window, list[Moment]] = {}
    try:
        for place, name, live in loading.moments(made, precision, dtype, rounding, files=not trial.base.random_weights):
            window = ("load", place, "" if place is not None else name)
            found.setdefault(window, []).append((name if place is None else _LAYER.sub("", name), live))
    except Exception:  # a library's own table of names, or a model's code; the step's prediction stands
        logging.getLogger("peftbench").exception("loading cannot be traced, so its memory is not predicted")
        return {}
    return found


def _bytes(*tensors: torch.Tensor) -> int:
    """Return the bytes of tensors, each storage once."""
    return sum({s._cdata: s.nbytes() for s in (t.untyped_storage() for t in tensors)}.values())


def _learner(tuned: Any, trial: Trial, precision: Precision, parallel: Parallel, turn: int) -> loop.Learner:
    """Return a learner whose optimizer and scaler have state, as in a trial, which counts memory after training."""
    assert trial.training is not None
    if parallel.count > 1:
        parallel.distribute(tuned, precision)
    parameters = [p for p in tuned.parameters() if p.requires_grad]
    learner = loop.learner(
        tuned,
        parameters,
        trial.training,
        precision=precision,
        device="cpu",
        pad_id=0,
        virtual_tokens=0,
        parallel=parallel,
    )
    found = turns.of(tuned)
    if found is not None:
        turns.hold(tuned, learner.optimizer, found.extremes[turn])
    for parameter in parameters:
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    optimizers.to_training(learner.optimizer)
    learner.optimizer.step()
    learner.optimizer.zero_grad(set_to_none=True)
    learner.scaler.scale(torch.zeros(()))
    tuned.train()
    return learner


def _batch(shape: Pass, trial: Trial) -> Batch:
    ids = torch.zeros(shape.examples, shape.tokens, dtype=torch.long)
    positions = torch.zeros_like(ids) if shape.packed else None
    task = batches.head_task(trial)
    if task is None:
        return Batch(ids, torch.ones_like(ids), torch.zeros_like(ids), positions, bearing=_bearing(shape, trial))
    kind = torch.long if task.kind == "classification" else torch.float32
    types = torch.zeros_like(ids) if task.prompt_pair else None
    targets = torch.zeros(shape.examples, dtype=kind)
    return Batch(ids, torch.ones_like(ids), torch.zeros_like(ids), positions, targets, types)


def _bearing(shape: Pass, trial: Trial) -> logits.Bearing | None:
    """Return positions that stand for those in the loss, as many as in the forward pass."""
    assert trial.training is not None
    kind = trial.training.logits
    if kind == logits.ALL:
        return None
    count = shape.examples * (shape.tokens - 1) if shape.bearing is None else shape.bearing
    rows, places = (torch.zeros(count, dtype=torch.long) for _ in range(2))
    return logits.Bearing(rows, places, logits.CHUNK if kind == logits.CHUNKED else None)


class _Windows:
    """The peaks of a ledger's count, operator by operator, in windows."""

    def __init__(self, counted: CategoryBytes) -> None:
        self.counted = counted
        self.moments: dict[Window, list[Moment]] = {}
        self.host: dict[Window, list[Moment]] = {}
        self.forward_pass = 0
        self._met: Counter[Window] = Counter()
        self._operator = ""
        self._open(("start", None))

    def enter(self, kind: str, place: int | None = None) -> None:
        """Begin a window."""
        self.next("")
        window = (kind, place, self.forward_pass)
        self._met[window] += 1
        self._open((*window, self._met[window]))

    def _open(self, window: Window) -> None:
        self._here = self.moments[window] = []
        self._host = self.host[window] = []

    def next(self, operator: str) -> None:
        """Begin an operator: keep the peak since the last one began."""
        counted = self.counted
        self._here.append((self._operator, counted.peak))
        self._host.append((self._operator, {"host": counted.offloaded_peak}))
        self._operator, counted.offloaded_peak = operator, counted.offloaded
        counted.peak_bytes, counted.peak = sum(counted.live.values()), dict(counted.live)


def _mark(model: nn.Module, windows: _Windows) -> None:
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
            if isinstance(first, torch.Tensor) and first.requires_grad and not _in_backward():
                first.register_hook(lambda _: windows.enter("backward", place))

        return mark

    model.register_forward_pre_hook(next_pass)
    for place, block in enumerate(_blocks(model)):
        block.register_forward_pre_hook(before(place))
        block.register_forward_hook(after(place))


def _blocks(model: nn.Module) -> Sequence[nn.Module]:
    """Return the decoder layers; none if they are not known, since the model is then traced at its own depth."""
    try:
        return tuple(decoder_layers(model))
    except LookupError:
        return ()


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


class _Operators(fake.Answers):
    """Counts products, and begins a window when the backward pass is over."""

    def __init__(self, windows: _Windows) -> None:
        super().__init__()
        self.flops = 0
        self.attention = "none"
        self._windows = windows
        self._backward = False

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run one operator that returns tensors."""
        if _in_backward():
            self._backward = True
        elif self._backward:
            self._backward = False
            self._windows.enter("after backward")
        name = func.name()
        if "scaled_dot_product" in name:
            self.attention = "fused"
        elif self.attention == "none" and name in ("aten::_softmax", "aten::_safe_softmax"):
            self.attention = "matrix"
        self._windows.next(name)
        out = super().run(func, args, kwargs)
        self.flops += matmuls.operations(func, args, kwargs, out)
        return out
