"""Predict what each of several devices needs, and what all of them do together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from peftbench.planner.predict import predict
from peftbench.planner.records import Pass, Prediction
from peftbench.records import Devices, Trial


def highest(trial: Trial, config: Any, passes: Sequence[Pass] | None = None) -> Prediction:
    """Return the prediction for the device of a trial that needs most, with the peaks of all and the work of all.

    Args and errors are those of ``predict``.
    """
    if trial.devices is None:
        return predict(trial, config, passes)
    devices = trial.devices
    each = [predict(trial, config, passes, rank) for rank in different(devices)]
    peaks = [found.peak_bytes for found in each]
    work = sum(found.flops_per_token for found in each) * devices.ranks / len(each)
    most = max(each, key=lambda found: found.peak_bytes)
    return replace(most, flops_per_token=work, ranks=tuple(peaks * (devices.ranks // len(peaks))))


def different(devices: Devices) -> range:
    """Return the ranks whose memory differs: each stage of a pipeline, else rank 0.

    Rank 0 has the longest shares where a size cannot be divided evenly, and as many passes as any other rank.
    """
    return range(devices.ranks if devices.strategy == "pp" else 1)
