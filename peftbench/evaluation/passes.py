"""Time of a model's forward passes during evaluation, split into prefill and decoding."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch

from peftbench.records.columns.time import TimeColumns

_CACHES = ("past_key_values", "cache_params", "state")
"""Keyword arguments that carry the cache: attention, Mamba, RWKV."""
_OVER_TEXTS = ContextVar("over_texts", default=False)
_ASIDE = ContextVar("aside", default=False)


@dataclass
class PassTimes:
    """Seconds in a model's forward passes, filled in when the context ends without an exception."""

    columns: TimeColumns = field(default_factory=TimeColumns)


@contextmanager
def over_texts() -> Iterator[None]:
    """Count forward passes within the context as prefill: they read the rests of given texts behind a shared prompt."""
    with _set(_OVER_TEXTS):
        yield


@contextmanager
def aside() -> Iterator[None]:
    """Do not count forward passes within the context: they check how texts can be run, and give no score."""
    with _set(_ASIDE):
        yield


@contextmanager
def _set(variable: ContextVar[bool]) -> Iterator[None]:
    token = variable.set(True)
    try:
        yield
    finally:
        variable.reset(token)


@contextmanager
def split(model: Any, device: str, virtual: int = 0) -> Iterator[PassTimes]:
    """Measure the seconds in a model's forward passes within the context: prefill and decoding.

    A pass over a single token with a cache is decoding, unless it is ``over_texts``; every other pass is prefill, and
    passes ``aside`` are neither. On CUDA, each pass is timed by two events in the device's queue, so that the host does
    not wait for it.

    Args:
        model: the base model's own module, which the forward passes of every method call.
        device: the device that holds it.
        virtual: number of virtual tokens that the method may put into a cache before a text.
    """
    found = PassTimes()
    begun: list[tuple[str, Any]] = []
    passes: dict[str, list[tuple[Any, Any]]] = {"prefill": [], "decode": [], "aside": []}

    def begin(_: Any, __: Any, inputs: Mapping[str, Any]) -> None:
        given = inputs.get("inputs_embeds") if inputs.get("input_ids") is None else inputs["input_ids"]
        cache = next((inputs[name] for name in _CACHES if inputs.get(name) is not None), None)
        single = cache is not None and given is not None and given.shape[1] == 1 and not _OVER_TEXTS.get()
        if cache is not None and single and virtual:
            single = cache.get_seq_length() > virtual
        name = "aside" if _ASIDE.get() else "decode" if single else "prefill"
        begun.append((name, _moment(device)))

    def end(*_: Any) -> None:
        name, start = begun.pop()
        passes[name].append((start, _moment(device)))

    hooks = (model.register_forward_pre_hook(begin, with_kwargs=True), model.register_forward_hook(end))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
    found.columns = TimeColumns(
        evaluate_prefill_seconds=_seconds(passes["prefill"]), evaluate_decode_seconds=_seconds(passes["decode"])
    )


def _moment(device: str) -> Any:
    if device != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(moments: list[tuple[Any, Any]]) -> float:
    """Return the total time between pairs of moments; CUDA events are read after the last one has occurred."""
    if not moments or isinstance(moments[-1][1], float):
        return sum(end - start for start, end in moments)
    moments[-1][1].synchronize()
    return sum(start.elapsed_time(end) for start, end in moments) / 1000
