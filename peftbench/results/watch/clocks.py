"""The speed of a cell's trials, and the clocks of the machine that each trial measures beside it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from peftbench.results.watch.quantities import Seed

CLOCK_SD = 0.071
"""Standard deviation, from night to night of unchanged code, of a training step's speed relative to the matrix
product's. ``tools.validation.clock_noise`` measured it in 21 nights beside other work; idle machines had 3 %."""
REFERENCE_SD = 0.018
"""The same relative to the reference step's, which is made of what a training step is made of; from the same nights."""
BySeed = Mapping[Seed, float]


@dataclass(frozen=True)
class Timed:
    """The speed of a cell on both sides, of trials whose times count."""

    old: BySeed
    """Tokens per second by seed, at least one."""
    new: BySeed
    old_clock: BySeed
    """FLOPs per second of the matrix product that the same trial measured; empty if it is not known."""
    new_clock: BySeed
    old_reference: BySeed = field(default_factory=dict)
    """Reference steps per second that the same trial measured; empty if they are not known."""
    new_reference: BySeed = field(default_factory=dict)


@dataclass(frozen=True)
class Clock:
    """What tells how fast the machine was."""

    name: str
    sd: float
    """Of a step's speed relative to it, from night to night, as a logarithm."""
    sides: Callable[[Timed], tuple[BySeed, BySeed]]
    """Its speed beside a cell's trials, old and new."""

    def beside(self, one: Timed) -> dict[Seed, float]:
        """Return the change of each seed's speed relative to it, as ``differences`` does.

        Each trial is related to what the clock showed in the same trial. Empty unless that is known of every trial that
        is compared.
        """
        speeds, shown = [logs(one.old), logs(one.new)], [logs(side) for side in self.sides(one)]
        if both := speeds[0].keys() & speeds[1].keys():
            speeds = [{seed: value for seed, value in side.items() if seed in both} for side in speeds]
        pairs = list(zip(speeds, shown, strict=True))
        if any(side.keys() - clock.keys() for side, clock in pairs):
            return {}
        old, new = ({seed: value - clock[seed] for seed, value in side.items()} for side, clock in pairs)
        return _differences(old, new)


CLOCKS = (
    Clock("reference step", REFERENCE_SD, lambda one: (one.old_reference, one.new_reference)),
    Clock("matrix product", CLOCK_SD, lambda one: (one.old_clock, one.new_clock)),
)
"""The best one first."""


def logs(values: BySeed) -> dict[Seed, float]:
    """Return the logarithms of what is positive."""
    return {seed: math.log(value) for seed, value in values.items() if value > 0}


def differences(old: BySeed, new: BySeed) -> dict[Seed, float]:
    """Return the change of each seed's logarithm; without a common seed that of the means, as of no seed."""
    return _differences(logs(old), logs(new))


def _differences(old: BySeed, new: BySeed) -> dict[Seed, float]:
    both = {seed: new[seed] - old[seed] for seed in old if seed in new}
    if both or not old or not new:
        return both
    return {None: statistics.fmean(new.values()) - statistics.fmean(old.values())}
