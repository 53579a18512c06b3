"""What is measured around training and evaluation besides time: energy, host and device memory, the GPU's state."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import torch

from peftbench.measure import energy, environment, nvml, peaks
from peftbench.measure.clock import Clock
from peftbench.records.columns.environment import EnvironmentColumns
from peftbench.records.columns.memory import MemoryColumns
from peftbench.records.columns.work import WorkColumns
from peftbench.records.phase import Phase


@dataclass(frozen=True)
class Sensors:
    """What can be measured on this machine."""

    device: str = "cpu"
    gpu: nvml.Gpu | None = None
    meter: energy.Meter | None = None
    resident: peaks.ResidentMemory = field(default_factory=peaks.ResidentMemory)


def sensors(device: str) -> Sensors:
    """Find what can be measured for a trial on a device."""
    gpu = nvml.find(f"GPU-{torch.cuda.get_device_properties().uuid}") if device == "cuda" else None
    return Sensors(device, gpu, energy.meter(device, gpu))


@dataclass
class Waiting:
    """Time that threads waited for a CPU within a context, filled in when the context ends."""

    seconds: float | None = None
    """Summed over threads; None if the context failed or the system does not report it."""


@contextmanager
def waiting() -> Iterator[Waiting]:
    """Measure for how long runnable threads of this process waited for a CPU within the context."""
    found, before = Waiting(), environment.waiting_by_thread()
    yield found
    found.seconds = environment.waited(before, environment.waiting_by_thread())


@dataclass
class Training:
    """What training took besides time, filled in when its context ends."""

    memory: MemoryColumns = field(default_factory=MemoryColumns)
    environment: EnvironmentColumns = field(default_factory=EnvironmentColumns)


@contextmanager
def training(sensors: Sensors) -> Iterator[Training]:
    """Measure what training takes besides time, also if it ends in an exception."""
    found = Training()
    begin = nvml.state(sensors.gpu) if sensors.gpu else None
    others = [nvml.other_processes(sensors.gpu) if sensors.gpu else None]
    allocator, resident = peaks.AllocatorPeak(), peaks.ResidentPeak()
    try:
        with peaks.allocator_peak(sensors.device) as allocator, sensors.resident.peak() as resident:
            yield found
    finally:
        used = _device_used_bytes(sensors)
        others.append(nvml.other_processes(sensors.gpu) if sensors.gpu else None)
        process = nvml.process_bytes(sensors.gpu, os.getpid()) if sensors.gpu else None
        found.memory = MemoryColumns(
            peak_train_bytes=allocator.allocated_bytes,
            peak_train_reserved_bytes=allocator.reserved_bytes,
            host_peak_train_bytes=resident.bytes,
            device_used_bytes=used,
            device_process_bytes=process,
            other_gpu_processes=max((n for n in others if n is not None), default=None),
        )
        if sensors.gpu:
            states = json.dumps({"start": begin, "end": nvml.state(sensors.gpu)})
            found.environment = EnvironmentColumns(device_state_json=states)


def _device_used_bytes(sensors: Sensors) -> int | None:
    """Return the memory in use on a CUDA device, by all processes; None if an exception has left it unusable."""
    if sensors.device == "cuda":
        with suppress(RuntimeError):
            free, total = torch.cuda.mem_get_info()
            return total - free
    return None


@dataclass
class Evaluation:
    """What evaluation took besides time, filled in when its context ends."""

    memory: MemoryColumns = field(default_factory=MemoryColumns)


@contextmanager
def evaluation(sensors: Sensors) -> Iterator[Evaluation]:
    """Measure what evaluation takes besides time, also if it ends in an exception."""
    found = Evaluation()
    allocator, resident = peaks.AllocatorPeak(), peaks.ResidentPeak()
    try:
        with peaks.allocator_peak(sensors.device) as allocator, sensors.resident.peak() as resident:
            yield found
    finally:
        found.memory = MemoryColumns(
            peak_evaluate_bytes=allocator.allocated_bytes, host_peak_evaluate_bytes=resident.bytes
        )


def each_step(sensors: Sensors, report: Callable[[int, int, float], None]) -> Callable[[int, int, float], None]:
    """Return a callback for each step that also reads the energy counter, if that wraps around and must be read often.

    Args:
        sensors: what can be measured.
        report: called with the step, all steps and the loss.
    """
    meter = sensors.meter
    if meter is None or not meter.wraps:
        return report

    def read_and_report(step: int, steps: int, loss: float) -> None:
        meter.read()
        report(step, steps, loss)

    return read_and_report


def energy_columns(sensors: Sensors, clock: Clock) -> WorkColumns:
    """Return the energy of training without validation and saving, and its source; nothing if it was not measured."""
    if sensors.meter is None or Phase.TRAIN not in clock.joules:
        return WorkColumns()
    within = clock.joules.get(Phase.VALIDATE, 0.0) + clock.joules.get(Phase.CHECKPOINT, 0.0)
    joules = clock.joules[Phase.TRAIN] - within
    return WorkColumns(train_energy_joules=joules, energy_source=sensors.meter.source)
