"""Energy counters and what NVML reports. NVML is replaced by a stand-in, so no GPU is needed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from peftbench.measure import energy, nvml, peaks, watch
from peftbench.measure.clock import Clock
from peftbench.records import Phase
from peftbench.records.columns.environment import EnvironmentColumns
from peftbench.records.columns.work import WorkColumns


def package(folder: Path, number: str, microjoules: int | None, name: str = "package-0", span: int = 1000) -> Path:
    domain = folder / f"intel-rapl:{number}"
    domain.mkdir(parents=True, exist_ok=True)
    (domain / "name").write_text(f"{name}\n")
    (domain / "max_energy_range_uj").write_text(f"{span}\n")
    if microjoules is not None:
        (domain / "energy_uj").write_text(f"{microjoules}\n")
    return domain / "energy_uj"


def test_energy_is_the_sum_of_the_packages_without_their_subdomains_and_other_domains(tmp_path):
    first, second = package(tmp_path, "0", 100), package(tmp_path, "1", 200, "package-1")
    package(tmp_path, "0:0", 50, "core")
    package(tmp_path, "2", 70, "psys")
    meter = energy.meter("cpu", None, tmp_path)
    assert meter is not None
    assert (meter.source, meter.wraps) == ("rapl", True)
    before = meter.read()
    first.write_text("400")
    second.write_text("900")
    (tmp_path / "intel-rapl:0:0" / "energy_uj").write_text("999")
    assert meter.read() - before == pytest.approx(1000e-6)


def test_a_counter_that_restarts_at_zero_is_followed(tmp_path):
    counter = package(tmp_path, "0", 900, span=1000)
    packages = energy.Packages(tmp_path)
    counter.write_text("100")
    assert packages.read() == pytest.approx(200e-6)
    counter.write_text("950")
    assert packages.read() == pytest.approx(1050e-6)


def test_a_counter_that_cannot_be_read_gives_no_energy(tmp_path):
    assert energy.meter("cpu", None, tmp_path / "nothing") is None
    package(tmp_path / "a", "0", None)
    assert energy.meter("cpu", None, tmp_path / "a") is None
    counter = package(tmp_path / "b", "0", 5)
    meter = energy.meter("cpu", None, tmp_path / "b")
    assert meter is not None
    counter.unlink()
    assert meter.read() is None


def test_for_cuda_the_energy_of_the_cpu_is_not_used(tmp_path):
    package(tmp_path, "0", 5)
    assert energy.meter("cuda", None, tmp_path) is None


def test_energy_of_training_excludes_validation():
    clock, joules = Clock(), iter([10.0, 12.0, 15.0, 20.0])
    clock.energy = lambda: next(joules)
    with clock.phase(Phase.TRAIN), clock.phase(Phase.VALIDATE):
        pass
    sensors = watch.Sensors("cpu", None, energy.Meter("rapl", clock.energy))
    expected = WorkColumns(train_energy_joules=10.0 - 3.0, energy_source="rapl")
    assert watch.energy_columns(sensors, clock) == expected


def test_energy_is_not_reported_if_the_counter_fails_during_training():
    clock, joules = Clock(), iter([10.0, None])
    clock.energy = lambda: next(joules)
    with clock.phase(Phase.TRAIN):
        pass
    assert watch.energy_columns(watch.Sensors("cpu", None, energy.Meter("rapl", clock.energy)), clock) == WorkColumns()
    assert watch.energy_columns(watch.Sensors(), clock) == WorkColumns()


def test_only_a_counter_that_wraps_is_read_after_each_step():
    reads, reported = [], []

    def report(*step):
        reported.append(step)

    def count():
        reads.append(1)
        return 1.0

    watch.each_step(watch.Sensors("cpu", None, energy.Meter("rapl", count, wraps=True)), report)(1, 2, 0.5)
    assert (len(reads), reported) == (1, [(1, 2, 0.5)])
    assert watch.each_step(watch.Sensors("cuda", None, energy.Meter("nvml", count)), report) is report
    assert watch.each_step(watch.Sensors(), report) is report


class Library:
    """A stand-in for pynvml with the given answers; every other function is not supported."""

    class NVMLError(Exception):
        pass

    def __init__(self, **answers):
        self.answers = answers

    def __getattr__(self, name):
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def answer(*args):
            if name not in self.answers:
                raise self.NVMLError(name)
            found = self.answers[name]
            return found(*args[1:]) if callable(found) else found

        return answer


def processes(*pairs):
    return [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in pairs]


ANSWERS = {
    "nvmlInit": None,
    "nvmlDeviceGetHandleByUUID": "handle",
    "nvmlDeviceGetTotalEnergyConsumption": 5000,
    "nvmlDeviceGetClockInfo": lambda kind: {1: 1200, 2: 2600}[kind],
    "nvmlDeviceGetMaxClockInfo": 1980,
    "nvmlDeviceGetPowerUsage": 650_000,
    "nvmlDeviceGetEnforcedPowerLimit": 700_000,
    "nvmlDeviceGetTemperature": 71,
    "nvmlDeviceGetCurrentClocksThrottleReasons": 0x4 | 0x40,
}


def test_the_gpus_state_is_in_base_units_and_older_drivers_function_names_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", Library(**ANSWERS))
    gpu = nvml.find("GPU-1")
    assert gpu is not None
    assert nvml.energy_joules(gpu) == 5.0
    assert nvml.state(gpu) == {
        "sm_clock_hertz": 1.2e9,
        "memory_clock_hertz": 2.6e9,
        "highest_sm_clock_hertz": 1.98e9,
        "power_watts": 650.0,
        "power_cap_watts": 700.0,
        "temperature_celsius": 71,
        "slowed_by": ["sw_power_cap", "hw_thermal_slowdown"],
    }


def test_without_the_package_the_driver_or_its_support_everything_is_none(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.find("GPU-1") is None
    monkeypatch.setitem(sys.modules, "pynvml", Library())
    assert nvml.find("GPU-1") is None
    gpu = nvml.Gpu(Library(), "handle")
    assert set(nvml.state(gpu).values()) == {None}
    assert energy.meter("cuda", gpu) is None
    assert (nvml.process_bytes(gpu, 1), nvml.other_processes(gpu)) == (None, None)


@pytest.mark.parametrize(
    ("listed", "own", "others"),
    [
        (processes((7, 100)), 100, 0),
        (processes((7, 100), (8, 50), (9, 20)), 100, 2),
        (processes((3007, 100), (3008, 50)), None, 1),  # in a container, process ids are not the host's
        (processes((7, None)), None, 0),
        ([], None, None),
    ],
)
def test_other_processes_on_the_gpu_are_counted(listed, own, others):
    gpu = nvml.Gpu(Library(nvmlDeviceGetComputeRunningProcesses=listed), "handle")
    assert (nvml.process_bytes(gpu, 7), nvml.other_processes(gpu)) == (own, others)


@pytest.fixture
def cuda(monkeypatch):
    """Make torch report a GPU of 100 bytes, 30 of them free."""
    answers = {"synchronize": None, "reset_peak_memory_stats": None, "mem_get_info": (30, 100)}
    answers |= {"max_memory_allocated": 40, "max_memory_reserved": 48, "empty_cache": None}
    for name, value in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)


def on_device(measured: watch.Training) -> dict[str, int]:
    """What was measured of the device, by column."""
    return {name: value for name, value in measured.memory.known().items() if not name.startswith("host_")}


def test_training_on_a_gpu_records_peaks_processes_and_the_gpus_state(cuda):
    import os

    lists = iter([processes((os.getpid(), 45)), processes((os.getpid(), 45), (1, 9)), processes((os.getpid(), 45))])
    library = Library(**ANSWERS, nvmlDeviceGetComputeRunningProcesses=lambda: next(lists))
    with watch.training(watch.Sensors("cuda", nvml.Gpu(library, "handle"))) as measured:
        pass
    state = json.loads(measured.environment.device_state_json)
    assert state["start"] == state["end"] == nvml.state(nvml.Gpu(library, "handle"))
    assert on_device(measured) == {
        "peak_train_bytes": 40,
        "peak_train_reserved_bytes": 48,
        "device_used_bytes": 70,
        "device_process_bytes": 45,
        "other_gpu_processes": 1,
    }


def test_memory_reserved_earlier_is_released_before_the_peak_is_reset(monkeypatch):
    called: list[str] = []
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: called.append(name))
    with peaks.allocator_peak("cuda"):
        called.append("work")
    assert called == ["synchronize", "empty_cache", "reset_peak_memory_stats", "work", "max_memory_allocated"]


def test_without_nvml_training_on_a_gpu_records_what_torch_reports(cuda):
    with watch.training(watch.Sensors("cuda")) as measured:
        pass
    assert on_device(measured).keys() == {"peak_train_bytes", "peak_train_reserved_bytes", "device_used_bytes"}
    assert measured.environment == EnvironmentColumns()


def test_after_an_oom_the_peaks_are_still_recorded(cuda):
    measured = []
    found = processes((1, 60), (2, 40))
    gpu = nvml.Gpu(Library(nvmlDeviceGetComputeRunningProcesses=found), "handle")

    def fail():
        with watch.training(watch.Sensors("cuda", gpu)) as training:
            measured.append(training)
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        fail()
    memory = measured[0].memory
    assert (memory.peak_train_bytes, memory.peak_train_reserved_bytes) == (40, 48)
    assert (memory.device_used_bytes, memory.other_gpu_processes) == (70, 1), "as it was at the failure"
