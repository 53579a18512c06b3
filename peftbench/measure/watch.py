"""What is read around training and evaluation beside the clock: energy, memory of host and device, the GPU's state."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch

from peftbench.measure import energy, environment, nvml, peaks
from peftbench.measure.clock import Clock


@dataclass(frozen=True)
class Gauges:
    """What can be read on this machine."""

    device: str = "cpu"
    gpu: nvml.Gpu | None = None
    meter: energy.Meter | None = None


def gauges(device: str) -> Gauges:
    """Find what can be read for a trial on a device."""
    gpu = nvml.find(f"GPU-{torch.cuda.get_device_properties().uuid}") if device == "cuda" else None
    return Gauges(device, gpu, energy.meter(device, gpu))


@contextmanager
def waiting(facts: dict[str, Any], column: str) -> Iterator[None]:
    """Put the seconds for which threads waited for a CPU within the context into a column, where Linux tells."""
    before = environment.waiting_by_thread()
    yield
    facts[column] = environment.waited(before, environment.waiting_by_thread())


@contextmanager
def training(gauges: Gauges, facts: dict[str, Any]) -> Iterator[None]:
    """Put what training takes beside time into a row's columns, also when it ends in an exception."""
    reserved = "peak_train_reserved_bytes"
    begin = nvml.state(gauges.gpu) if gauges.gpu else None
    others = [nvml.other_processes(gauges.gpu) if gauges.gpu else None]
    try:
        with (
            peaks.allocator_peak(gauges.device, facts, "peak_train_bytes", reserved),
            peaks.resident_peak(facts, "host_peak_train_bytes"),
        ):
            yield
    finally:
        if gauges.device == "cuda":
            with suppress(RuntimeError):  # of a device that an exception has left unusable, which is what counts
                free, total = torch.cuda.mem_get_info()
                facts["device_used_bytes"] = total - free
        _note_gpu(gauges, begin, others, facts)


def _note_gpu(gauges: Gauges, begin: dict[str, Any] | None, others: list[int | None], facts: dict[str, Any]) -> None:
    """Put what the driver says of the GPU at the end of training into columns: also of a training that died of it."""
    if gauges.gpu:
        others.append(nvml.other_processes(gauges.gpu))
        facts["device_process_bytes"] = nvml.process_bytes(gauges.gpu, os.getpid())
        facts["other_gpu_processes"] = max((n for n in others if n is not None), default=None)
        facts["device_state_json"] = json.dumps({"start": begin, "end": nvml.state(gauges.gpu)})


def each_step(gauges: Gauges, report: Callable[[int, int, float], None]) -> Callable[[int, int, float], None]:
    """Return a report of steps that reads the energy counter too: one that begins again at zero must be read often."""
    meter = gauges.meter
    if meter is None or not meter.wraps:
        return report

    def told(step: int, steps: int, loss: float) -> None:
        meter.read()
        report(step, steps, loss)

    return told


def energy_columns(gauges: Gauges, clock: Clock) -> dict[str, Any]:
    """Return the energy of training without validation, and who counted it; nothing where it is not known."""
    if gauges.meter is None or "train" not in clock.joules:
        return {}
    joules = clock.joules["train"] - clock.joules.get("validate", 0.0)
    return {"train_energy_joules": joules, "energy_source": gauges.meter.source}
