"""Predict what a trial takes: the real training step under the real accountant, on tensors without memory.

The step is ``train.step``, the accountant ``measure.ledger.account``, the method what ``METHODS`` attaches; nothing of
them is written down a second time here. Two depths are traced and every window of the step is extrapolated in layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench.plan.depth import Depths, at, depths
from peftbench.plan.record import Pass, Prediction, longest
from peftbench.plan.trace import Traced, Window, trace
from peftbench.records import Trial


def predict(trial: Trial, config: Any, passes: Sequence[Pass] | None = None) -> Prediction:
    """Return what a trial would take, from its base's config alone.

    Args:
        trial: a trial that trains.
        config: the base's transformers config, or a folder with its ``config.json``.
        passes: the forward passes of the step; by default the longest that the trial's settings allow, so that the
            peak is one that the trial does not exceed.

    Raises:
        Unsupported: if the method or precision does not exist on this base.
    """
    assert trial.training is not None
    passes = tuple(passes or longest(trial.training))
    config = _config(trial, config)
    where = depths(trial, config)
    traced = [trace(*at(trial, config, depth), passes) for depth in where.traced]
    peak = max(_windows(traced, where).values(), key=lambda found: sum(found.values()))
    totals = {name: _extrapolated([t.totals[name] for t in traced], where) for name in traced[0].totals}
    tokens = sum(p.examples * p.tokens for p in passes)
    return Prediction(
        peak_bytes=sum(peak.values()),
        categories=peak,
        flops_per_token=totals.pop("flops") / tokens,
        passes=passes,
        depths=where.traced,
        depth=where.own,
        **totals,
    )


def _config(trial: Trial, given: Any) -> Any:
    if not isinstance(given, str | Path):
        return given
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(given, trust_remote_code=trial.base.trust_remote_code)


def _windows(traced: Sequence[Traced], where: Depths) -> dict[Window, dict[str, int]]:
    """Return the peak of every window at the model's own depth."""
    if len(traced) == 1:
        return {window: dict(found) for window, found in traced[0].windows.items()}
    shallow, deep = (_placed(t, depth, where) for t, depth in zip(traced, where.traced, strict=True))
    return {
        window: {name: _extrapolated([found[name], deep[window][name]], where) for name in found}
        for window, found in shallow.items()
        if window in deep
    }


def _placed(traced: Traced, depth: int, where: Depths) -> Mapping[Window, Mapping[str, int]]:
    """Return the windows of a traced step by places that two depths share; those in the middle have none."""
    found = {}
    for (kind, place, *rest), bytes_ in traced.windows.items():
        if place is None or place < where.low:
            found[kind, place, *rest] = bytes_
        elif place >= depth - where.high:
            found[kind, place - depth, *rest] = bytes_
    return found


def _extrapolated(values: Sequence[int], where: Depths) -> int:
    """Return a number at the model's own depth, on the line through those of the traced depths."""
    if len(values) == 1:
        return values[0]
    (first, second), (low, high) = values, where.traced
    return first + (second - first) * (where.own - low) // (high - low)
