"""Predict what each of several devices needs, and what all of them do together."""

from __future__ import annotations

import math
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
    of_all = sum(found.flops_per_token for found in each) * devices.ranks / len(each)
    work = of_all * _share_that_counts(devices, len(each[0].passes))
    most = max(each, key=lambda found: found.peak_bytes)
    return replace(most, flops_per_token=work, ranks=tuple(peaks * (devices.ranks // len(peaks))))


def _share_that_counts(devices: Devices, passes: int) -> float:
    """Return the share of the passes of all ranks that count: in a step's last round some may have a weight of zero."""
    if devices.strategy not in ("ddp", "fsdp2"):
        return 1.0
    return passes / (math.ceil(passes / devices.count) * devices.count)


def different(devices: Devices) -> range:
    """Return the ranks whose memory differs: each stage of a pipeline, else rank 0.

    Rank 0 has the longest shares where a size cannot be divided evenly, and as many passes as any other rank.
    """
    return range(devices.ranks if devices.strategy == "pp" else 1)
