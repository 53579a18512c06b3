"""How long a model's forward passes take while it is evaluated: over whole texts, and over one new token each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

_CACHES = ("past_key_values", "cache_params", "state")
"""As what models are given what came before: attention, Mamba, RWKV."""


@contextmanager
def split(model: Any, device: str, facts: dict[str, Any], virtual: int = 0) -> Iterator[None]:
    """Put the seconds of a model's forward passes within the context into a row's columns, unless it fails.

    A pass over one token that comes after others is decoding, every other one is prefill. On CUDA each is timed between
    two events on the device's queue, so that nothing waits for the clock.

    Args:
        model: the base's own module, which every method's forward pass goes through.
        device: where it is.
        facts: of the trial's row.
        virtual: tokens that the method itself may put into a cache before a text.
    """
    begun: list[tuple[str, Any]] = []
    passes: dict[str, list[tuple[Any, Any]]] = {"prefill": [], "decode": []}

    def begin(_: Any, __: Any, inputs: Mapping[str, Any]) -> None:
        given = inputs.get("inputs_embeds") if inputs.get("input_ids") is None else inputs["input_ids"]
        cache = next((inputs[name] for name in _CACHES if inputs.get(name) is not None), None)
        single = cache is not None and given is not None and given.shape[1] == 1
        if cache is not None and single and virtual:
            single = cache.get_seq_length() > virtual
        begun.append(("decode" if single else "prefill", _moment(device)))

    def end(*_: Any) -> None:
        name, start = begun.pop()
        passes[name].append((start, _moment(device)))

    hooks = (model.register_forward_pre_hook(begin, with_kwargs=True), model.register_forward_hook(end))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
    for name, moments in passes.items():
        facts[f"evaluate_{name}_seconds"] = _seconds(moments)


def _moment(device: str) -> Any:
    if device != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _seconds(moments: list[tuple[Any, Any]]) -> float:
    """Return the sum of the times between pairs of moments; CUDA's events know them when the last has come."""
    if not moments or isinstance(moments[-1][1], float):
        return sum(end - start for start, end in moments)
    moments[-1][1].synchronize()
    return sum(start.elapsed_time(end) for start, end in moments) / 1000
