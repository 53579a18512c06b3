"""The page's table of rates, work and energy: a row per trained cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from peftbench.records import units as fmt
from peftbench.report.collect import Cell, Results
from peftbench.report.derived import rates as derived
from peftbench.report.derived.rates import RATE, Steady
from peftbench.results import seeds

HEADS = (
    *("cell", "non-padding tokens/s", "processed tokens/s", "loss-bearing tokens/s", "± within a trial"),
    *("padding left", "median step [ms]", "p5 [ms]", "p95 [ms]", "untimed"),
    *("FLOPs per token", "FLOP/s", "MFU", "energy", "samples/J"),
)


@dataclass(frozen=True)
class Rates:
    """A table of the page: a row per cell that trained."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def rates(results: Results) -> Rates | None:
    """Return step times, rates, padding, work and energy of each cell, means over its trials; None if none trained.

    A rate's ± is the half width of its 95 % t-interval over trials; of a single trial, over its steps.
    """
    cells = [cell for cell in results.tuned if cell.mean("train_seconds") is not None]
    steps = ([derived.trial_steps(results, key) for key in cell.ok["key"]] for cell in cells)
    made = [_row(cell, [s for s in found if s]) for cell, found in zip(cells, steps, strict=True)]
    return Rates(HEADS, tuple(made)) if made else None


def _row(cell: Cell, steps: Sequence[Steady]) -> tuple[str, ...]:
    rows = cell.ok.to_dict("records")
    virtual = (cell.rank or 0) if cell.record is not None and cell.record.virtual_tokens else 0

    def mean(of: Callable[[Any], float | None], among: Sequence[Any] = rows) -> float | None:
        found = seeds.spread_of(of(one) for one in among)
        return None if found is None else found.mean

    half = derived.half_width(cell, steps)
    within = mean(lambda s: s.half_width and s.half_width / s.rate, steps)
    joules = mean(lambda row: derived.known(row, "train_energy_joules"))
    return (
        cell.name,
        fmt.spread(cell.mean(RATE), half, 1.0, 0),
        fmt.number(cell.mean("processed_tokens_per_second")),
        fmt.number(cell.mean("loss_tokens_per_second")),
        fmt.percent(within),
        fmt.percent(mean(lambda row: derived.padding(row, virtual))),
        *(fmt.number(mean(lambda s, name=name: 1e3 * getattr(s, name), steps)) for name in ("median", "p5", "p95")),  # type: ignore[misc]
        fmt.seconds(cell.mean("untimed_seconds")),
        fmt.count(cell.mean("train_flops_per_token")),
        fmt.count(mean(derived.achieved)),
        fmt.percent(mean(derived.utilization)),
        fmt.MISSING if joules is None else f"{fmt.number(joules)} J",
        fmt.number(mean(derived.samples_per_joule)),
    )
