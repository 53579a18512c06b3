"""Energy counters and what NVML tells. The GPU's library is a stand-in here: none of this has run on a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from peftbench.measure import energy, nvml, peaks, watch
from peftbench.measure.clock import Clock


def package(folder: Path, number: str, microjoules: int | None, name: str = "package-0", span: int = 1000) -> Path:
    domain = folder / f"intel-rapl:{number}"
    domain.mkdir(parents=True, exist_ok=True)
    (domain / "name").write_text(f"{name}\n")
    (domain / "max_energy_range_uj").write_text(f"{span}\n")
    if microjoules is not None:
        (domain / "energy_uj").write_text(f"{microjoules}\n")
    return domain / "energy_uj"


def test_packages_are_summed_and_their_parts_and_other_domains_left_out(tmp_path):
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


def test_a_counter_that_begins_again_is_followed(tmp_path):
    counter = package(tmp_path, "0", 900, span=1000)
    packages = energy.Packages(tmp_path)
    counter.write_text("100")
    assert packages.read() == pytest.approx(200e-6)
    counter.write_text("950")
    assert packages.read() == pytest.approx(1050e-6)


def test_what_cannot_be_read_is_not_known(tmp_path):
    assert energy.meter("cpu", None, tmp_path / "nothing") is None
    package(tmp_path / "a", "0", None)
    assert energy.meter("cpu", None, tmp_path / "a") is None
    counter = package(tmp_path / "b", "0", 5)
    meter = energy.meter("cpu", None, tmp_path / "b")
    assert meter is not None
    counter.unlink()
    assert meter.read() is None


def test_the_cpus_energy_does_not_stand_for_a_gpus(tmp_path):
    package(tmp_path, "0", 5)
    assert energy.meter("cuda", None, tmp_path) is None


def test_energy_of_training_is_without_validation():
    clock, joules = Clock(), iter([10.0, 12.0, 15.0, 20.0])
    clock.energy = lambda: next(joules)
    with clock.phase("train"), clock.phase("validate"):
        pass
    gauges = watch.Gauges("cpu", None, energy.Meter("rapl", clock.energy))
    assert watch.energy_columns(gauges, clock) == {"train_energy_joules": 10.0 - 3.0, "energy_source": "rapl"}


def test_energy_that_is_lost_on_the_way_is_not_told():
    clock, joules = Clock(), iter([10.0, None])
    clock.energy = lambda: next(joules)
    with clock.phase("train"):
        pass
    assert watch.energy_columns(watch.Gauges("cpu", None, energy.Meter("rapl", clock.energy)), clock) == {}
    assert watch.energy_columns(watch.Gauges(), clock) == {}


def test_a_counter_that_wraps_is_read_after_each_step_and_others_are_left_alone():
    reads, told = [], []

    def report(*step):
        told.append(step)

    def count():
        reads.append(1)
        return 1.0

    watch.each_step(watch.Gauges("cpu", None, energy.Meter("rapl", count, wraps=True)), report)(1, 2, 0.5)
    assert (len(reads), told) == (1, [(1, 2, 0.5)])
    assert watch.each_step(watch.Gauges("cuda", None, energy.Meter("nvml", count)), report) is report
    assert watch.each_step(watch.Gauges(), report) is report


class Library:
    """A stand-in for pynvml: what it answers is given, everything else is not supported."""

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


def test_the_gpu_is_told_in_base_units_and_by_the_older_name_of_a_question(monkeypatch):
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


def test_without_package_driver_or_support_nothing_is_known(monkeypatch):
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
        (processes((3007, 100), (3008, 50)), None, 1),  # a container's numbers are not the host's
        (processes((7, None)), None, 0),
        ([], None, None),
    ],
)
def test_other_processes_on_the_gpu_are_counted(listed, own, others):
    gpu = nvml.Gpu(Library(nvmlDeviceGetComputeRunningProcesses=listed), "handle")
    assert (nvml.process_bytes(gpu, 7), nvml.other_processes(gpu)) == (own, others)


@pytest.fixture
def cuda(monkeypatch):
    """A torch that believes in a GPU of 100 bytes, 30 of them free."""
    answers = {"synchronize": None, "reset_peak_memory_stats": None, "mem_get_info": (30, 100)}
    answers |= {"max_memory_allocated": 40, "max_memory_reserved": 48, "empty_cache": None}
    for name, value in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)


def test_training_on_a_gpu_leaves_its_peaks_processes_and_state_in_the_row(cuda):
    import os

    lists = iter([processes((os.getpid(), 45)), processes((os.getpid(), 45), (1, 9)), processes((os.getpid(), 45))])
    library = Library(**ANSWERS, nvmlDeviceGetComputeRunningProcesses=lambda: next(lists))
    facts: dict = {}
    with watch.training(watch.Gauges("cuda", nvml.Gpu(library, "handle")), facts):
        pass
    state = json.loads(facts.pop("device_state_json"))
    assert state["start"] == state["end"] == nvml.state(nvml.Gpu(library, "handle"))
    assert {name: value for name, value in facts.items() if not name.startswith("host_")} == {
        "peak_train_bytes": 40,
        "peak_train_reserved_bytes": 48,
        "device_used_bytes": 70,
        "device_process_bytes": 45,
        "other_gpu_processes": 1,
    }


def test_what_was_reserved_before_is_given_back_before_the_peak_is_reset(monkeypatch):
    called: list[str] = []
    for name in ("synchronize", "empty_cache", "reset_peak_memory_stats", "max_memory_allocated"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: called.append(name))
    with peaks.allocator_peak("cuda", {}, "peak_evaluate_bytes"):
        called.append("work")
    assert called == ["synchronize", "empty_cache", "reset_peak_memory_stats", "work", "max_memory_allocated"]


def test_training_on_a_gpu_without_its_library_knows_what_torch_knows(cuda):
    facts: dict = {}
    with watch.training(watch.Gauges("cuda"), facts):
        pass
    told = {name for name in facts if not name.startswith("host_")}
    assert told == {"peak_train_bytes", "peak_train_reserved_bytes", "device_used_bytes"}


def test_an_oom_keeps_the_peaks_at_death(cuda):
    facts: dict = {}
    found = processes((1, 60), (2, 40))
    gpu = nvml.Gpu(Library(nvmlDeviceGetComputeRunningProcesses=found), "handle")

    def fail():
        with watch.training(watch.Gauges("cuda", gpu), facts):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        fail()
    assert (facts["peak_train_bytes"], facts["peak_train_reserved_bytes"]) == (40, 48)
    assert (facts["device_used_bytes"], facts["other_gpu_processes"]) == (70, 1), "what was there when it died"
