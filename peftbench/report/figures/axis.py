"""Horizontal axes of positive quantities, with few and plainly written ticks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from peftbench.records import units as fmt


@dataclass(frozen=True)
class Axis:
    """A horizontal axis of positive values, in the unit that is shown."""

    title: str
    low: float
    high: float
    log: bool
    text: Callable[[float], str] = fmt.number

    @classmethod
    def over(cls, title: str, values: Sequence[float], log: bool | None, text: Callable[[float], str]) -> Axis:
        """Return an axis with room around all values; logarithmic where asked, or where they span a factor of 12."""
        least, most = min(values), max(values)
        log = most > 12 * least if log is None else log
        if log:
            room = max((most / least) ** 0.08, 1.3)
            return cls(title, least / room, most * room, True, text)
        room = 0.08 * (most - least) or 0.5 * most
        return cls(title, max(0.0, least - room), most + room, False, text)

    def apply(self, area: Axes) -> None:
        """Set scale, limits and at most five or six plainly written ticks."""
        if self.log:
            area.set_xscale("log")
        area.set_xlim(self.low, self.high)
        even = MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
        ticks = self._log_ticks() if self.log else even
        shown = [t for t in ticks if self.low <= t <= self.high]
        area.set_xticks(shown, [self.text(t) for t in shown])
        area.set_xticks([], minor=True)
        area.set_xlabel(self.title, labelpad=4)

    def _log_ticks(self) -> list[float]:
        for factors in ((1, 2, 5), (1, 3), (1,)):
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            ticks = [f * 10.0**d for d in decades for f in factors if self.low <= f * 10.0**d <= self.high]
            if len(ticks) <= 5:
                return ticks
        return ticks[:: math.ceil(len(ticks) / 5)]
