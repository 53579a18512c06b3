"""Energy counters: the GPU's own, or those of the CPU packages if they can be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from peftbench.measure import nvml

_POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Meter:
    """A counter of joules."""

    source: str
    """``nvml``: one GPU, including other programs on it. ``rapl``: all CPU packages, including other programs."""
    read: Callable[[], float | None]
    """Returns joules since some fixed moment; None if the counter could not be read."""
    wraps: bool = False
    """Whether the counter restarts at zero after some minutes, so that it must be read more often."""


def meter(device: str, gpu: nvml.Gpu | None, powercap: Path = _POWERCAP) -> Meter | None:
    """Return the energy counter of the device that a trial computes on; None if none can be read.

    Args:
        device: ``cpu`` or ``cuda``. For CUDA only the GPU's counter is used, never the CPU's.
        gpu: the GPU; None on the CPU or if NVML does not know the GPU.
        powercap: the folder in which Linux shows the counters of the CPU packages.
    """
    if device == "cuda":
        found = Meter("nvml", partial(nvml.energy_joules, gpu)) if gpu else None
    else:
        packages = Packages(powercap)
        found = Meter("rapl", packages.read, wraps=True) if packages.known else None
    return found if found and found.read() is not None else None


class Packages:
    """The summed counters of the CPU's packages (Intel's and AMD's RAPL).

    Each counter restarts at zero after some minutes under load (``max_energy_range_uj``) and must be read more often.
    """

    def __init__(self, powercap: Path) -> None:
        # package domains are intel-rapl:0, intel-rapl:1, ...; they include their subdomains such as intel-rapl:0:0
        domains = [path for path in sorted(powercap.glob("intel-rapl:*")) if path.name.count(":") == 1]
        self._domains = [path for path in domains if (_text(path / "name") or "").startswith("package")]
        self._last = [_number(path / "energy_uj") for path in self._domains]
        self._ranges = [_number(path / "max_energy_range_uj") for path in self._domains]
        self._microjoules = 0
        self.known = bool(self._domains)

    def read(self) -> float | None:
        """Return joules since this object was created, None if a counter cannot be read."""
        now = [_number(path / "energy_uj") for path in self._domains]
        for before, after, span in zip(self._last, now, self._ranges, strict=True):
            if before is None or after is None or (after < before and span is None):
                return None
            self._microjoules += after - before + (span or 0 if after < before else 0)
        self._last = now
        return self._microjoules / 1e6


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:  # most systems let only root read the counters (CVE-2020-8694)
        return None


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if text and text.isdigit() else None
