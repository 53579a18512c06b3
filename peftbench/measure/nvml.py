"""What NVIDIA's management library (NVML) reports about a trial's GPU; None for what it does not report."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

_SM, _MEMORY, _CORE = 1, 2, 0
"""NVML's constants for the clocks of multiprocessors and memory, and for the temperature sensor of the core."""
_SLOWED = {
    0x1: "gpu_idle",
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
"""Bits of the reasons why clocks are below their maximum (nvml.h, ``nvmlClocksEventReason*``)."""
THROTTLED = frozenset(
    {"sw_power_cap", "hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"}
)
"""The reasons that mean throttling of a busy GPU: heat, power, an external brake."""


@dataclass(frozen=True)
class Gpu:
    """A GPU and the library that reports about it."""

    library: Any
    """The module ``pynvml``."""
    handle: Any

    def ask(self, name: str, *args: Any) -> Any:
        """Return the result of one library function for this GPU; None if it is not supported or not permitted."""
        try:
            return getattr(self.library, name)(self.handle, *args)
        except (self.library.NVMLError, AttributeError):
            return None


def find(uuid: str) -> Gpu | None:
    """Return a GPU by its UUID ("GPU-..."); None if the package nvidia-ml-py or the driver is missing."""
    try:
        library = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        library.nvmlInit()
        return Gpu(library, library.nvmlDeviceGetHandleByUUID(uuid))
    except library.NVMLError:
        return None


def energy_joules(gpu: Gpu) -> float | None:
    """Return the energy that the GPU has used since its driver was loaded (Volta and newer), in joules."""
    return _scaled(gpu.ask("nvmlDeviceGetTotalEnergyConsumption"), 1e-3)


def state(gpu: Gpu) -> dict[str, Any]:
    """Return clocks, power, temperature and the reasons for lowered clocks, in hertz, watts and degrees Celsius."""
    reasons = gpu.ask("nvmlDeviceGetCurrentClocksEventReasons")
    if reasons is None:
        reasons = gpu.ask("nvmlDeviceGetCurrentClocksThrottleReasons")  # the older name of the same function
    clocks = [gpu.ask("nvmlDeviceGetClockInfo", kind) for kind in (_SM, _MEMORY)]
    return {
        "sm_clock_hertz": _scaled(clocks[0], 1e6),
        "memory_clock_hertz": _scaled(clocks[1], 1e6),
        "highest_sm_clock_hertz": _scaled(gpu.ask("nvmlDeviceGetMaxClockInfo", _SM), 1e6),
        "power_watts": _scaled(gpu.ask("nvmlDeviceGetPowerUsage"), 1e-3),
        "power_cap_watts": _scaled(gpu.ask("nvmlDeviceGetEnforcedPowerLimit"), 1e-3),
        "temperature_celsius": gpu.ask("nvmlDeviceGetTemperature", _CORE),
        "slowed_by": None if reasons is None else [name for bit, name in _SLOWED.items() if reasons & bit],
    }


def process_bytes(gpu: Gpu, pid: int) -> int | None:
    """Return the bytes of GPU memory of one process, including its CUDA context.

    None in a container, because the driver lists the process ids of the host.
    """
    found = gpu.ask("nvmlDeviceGetComputeRunningProcesses") or ()
    return next((process.usedGpuMemory for process in found if process.pid == pid), None)


def other_processes(gpu: Gpu) -> int | None:
    """Return how many other processes compute on the GPU. The caller must use the GPU already.

    One listed process is the caller, even if its process id differs. None if the list is empty, as in some containers.
    """
    found = gpu.ask("nvmlDeviceGetComputeRunningProcesses")
    return len(found) - 1 if found else None


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit
