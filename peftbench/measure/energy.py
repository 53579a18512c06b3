"""Energy counters: the GPU's own, or those of the CPU's packages where they may be read. Else nothing is known."""

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
    """``nvml``: one GPU, whatever runs on it. ``rapl``: all CPU packages of the machine, whatever runs on them."""
    read: Callable[[], float | None]
    """Returns joules since some moment; None where the counter could not be read."""
    wraps: bool = False
    """Whether it must be read every few minutes."""


def meter(device: str, gpu: nvml.Gpu | None, powercap: Path = _POWERCAP) -> Meter | None:
    """Return the counter of what a trial computes on; None where there is none that may be read.

    Args:
        device: ``cpu`` or ``cuda``. The CPU's energy does not stand for a GPU's.
        gpu: the GPU, if it is one and the library knows it.
        powercap: where Linux shows the packages' counters.
    """
    if device == "cuda":
        found = Meter("nvml", partial(nvml.energy_joules, gpu)) if gpu else None
    else:
        packages = Packages(powercap)
        found = Meter("rapl", packages.read, wraps=True) if packages.known else None
    return found if found and found.read() is not None else None


class Packages:
    """The summed counters of the CPU's packages (Intel's and AMD's RAPL).

    Each begins again at zero after some minutes under load (``max_energy_range_uj``): it must be read more often.
    """

    def __init__(self, powercap: Path) -> None:
        # package domains are intel-rapl:0, intel-rapl:1, ...; their parts, intel-rapl:0:0, are counted in them
        domains = [path for path in sorted(powercap.glob("intel-rapl:*")) if path.name.count(":") == 1]
        self._domains = [path for path in domains if (_text(path / "name") or "").startswith("package")]
        self._last = [_number(path / "energy_uj") for path in self._domains]
        self._ranges = [_number(path / "max_energy_range_uj") for path in self._domains]
        self._microjoules = 0
        self.known = bool(self._domains)

    def read(self) -> float | None:
        """Return joules since the counters were opened, None if one cannot be read."""
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
