"""What NVIDIA's management library tells of the GPU that a trial runs on. Of what it does not tell, None is known."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

_SM, _MEMORY, _CORE = 1, 2, 0
"""The library's numbers of the clocks of multiprocessors and memory, and of the core's thermometer."""
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
"""Bits of the reasons why clocks are below their highest (nvml.h, ``nvmlClocksEventReason*``)."""
THROTTLED = frozenset(
    {"sw_power_cap", "hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"}
)
"""Those that slow a busy GPU against its will: heat, power, a brake."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as the library knows it."""

    library: Any
    """The module ``pynvml``."""
    handle: Any

    def ask(self, name: str, *args: Any) -> Any:
        """Return what one function of the library says of this GPU, None where it is not supported or not allowed."""
        try:
            return getattr(self.library, name)(self.handle, *args)
        except (self.library.NVMLError, AttributeError):
            return None


def find(uuid: str) -> Gpu | None:
    """Return a GPU by its UUID ("GPU-..."), None where the package nvidia-ml-py or its driver is not there."""
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
    """Return the energy that the GPU has used since its driver was loaded (Volta and newer)."""
    return _scaled(gpu.ask("nvmlDeviceGetTotalEnergyConsumption"), 1e-3)


def state(gpu: Gpu) -> dict[str, Any]:
    """Return clocks, power, temperature, and why clocks are lower than they could be; in base units."""
    reasons = gpu.ask("nvmlDeviceGetCurrentClocksEventReasons")
    if reasons is None:
        reasons = gpu.ask("nvmlDeviceGetCurrentClocksThrottleReasons")  # its name in older drivers' libraries
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
    """Return the GPU memory of one process, its context included; None in a container, whose numbers are others."""
    found = gpu.ask("nvmlDeviceGetComputeRunningProcesses") or ()
    return next((process.usedGpuMemory for process in found if process.pid == pid), None)


def other_processes(gpu: Gpu) -> int | None:
    """Return how many processes beside the caller's compute on the GPU; the caller must use it already.

    One of those listed is the caller, whatever number it has; None where the list is empty, as in some containers.
    """
    found = gpu.ask("nvmlDeviceGetComputeRunningProcesses")
    return len(found) - 1 if found else None


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value * unit
