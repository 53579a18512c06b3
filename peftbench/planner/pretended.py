"""One rank of several, planned in one process: torch's process group that exchanges nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from peftbench.models.precision import Precision
from peftbench.records import Devices
from peftbench.training.parallel import ALONE, Parallel, make
from peftbench.training.parallel.data import Replicated


@contextmanager
def rank_of(devices: Devices | None, rank: int) -> Iterator[Parallel]:
    """Yield a strategy as one of its ranks sees it, with no other rank there; ``ALONE`` for one device.

    Every exchange takes the memory that it takes among real ranks, and changes no value: tensors have none here.
    """
    if devices is None:
        yield ALONE
        return
    import torch.distributed._tools.fake_collectives  # noqa: F401  their results on tensors without values
    from torch import distributed
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=rank, world_size=devices.count)
    try:
        with _agreed():
            yield _Copied(devices, rank, "cpu") if devices.strategy == "ddp" else make(devices, rank, "cpu")
    finally:
        distributed.destroy_process_group()


class _Copied(Replicated):
    """DDP without its reducer, which is written in C++ and reads values: the same tensors at the same moments.

    In the last pass of a step each gradient is moved into its bucket as soon as it is there.
    """

    def distribute(self, model: Any, precision: Precision) -> None:
        """Make room for the gradients in buckets, which exist as long as the model."""
        self._rooms = {p: torch.zeros_like(p) for p in model.parameters() if p.requires_grad}

    @contextmanager
    def exchanging(self, learner: Any, last: bool) -> Iterator[Any]:
        """Yield the model; gradients move in the last pass, after the ledger has seen them."""
        hooks = [p.register_post_accumulate_grad_hook(self._move) for p in self._rooms if last]
        try:
            yield learner.model
        finally:
            for hook in hooks:
                hook.remove()

    def _move(self, parameter: nn.Parameter) -> None:
        assert parameter.grad is not None
        parameter.grad = self._rooms[parameter].copy_(parameter.grad)

    def exchanged(self) -> Iterable[torch.Tensor]:
        """Return the buckets."""
        return self._rooms.values()


@contextmanager
def _agreed() -> Iterator[None]:
    """Spare the stages of a pipeline the vote on whether all know their shapes: they do, and no other is there."""
    from torch.distributed.pipelining import schedules

    def agree(_: Any, stages: Any, *__: Any) -> None:
        for stage in stages:
            stage._inference_mode = schedules.InferenceMode.STATIC

    usual = schedules._PipelineSchedule._warmup_p2p
    schedules._PipelineSchedule._warmup_p2p = agree  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        schedules._PipelineSchedule._warmup_p2p = usual  # type: ignore[method-assign]
