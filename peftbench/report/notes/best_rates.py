"""Notes on learning rates that are an axis of the grid: the best of each sweep, and its ratio to full fine-tuning's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from peftbench.records import units as fmt
from peftbench.report.collect import Results
from peftbench.report.derived.rate_sweeps import Sweep, sweeps, to_reference
from peftbench.results.best_rates import Ratio


def notes(results: Results) -> Iterable[str]:
    """Yield the ratios of best rates to full fine-tuning's, and the sweeps without one; none if nothing was swept."""
    found = sweeps(results)
    if not found:
        return
    ratios = [(sweep, ratio) for sweep in found if (ratio := to_reference(found, sweep))]
    if ratios:
        counts = sorted({ratio.seeds for _, ratio in ratios})
        seeds = (
            "one seed, so without intervals" if counts == [1] else f"95 % over {' or '.join(map(str, counts))} seeds"
        )
        each = ", ".join(f"{sweep.title} {written(ratio)}" for sweep, ratio in ratios)
        yield f"Best learning rate, in multiples of full fine-tuning's ({seeds}): {each}."
        bare = [sweep.title for sweep, ratio in ratios if ratio.low is None and ratio.seeds > 1]
        if bare:
            yield (
                "Ratio without an interval, as a best rate beside a failed trial or among equal losses is known to the "
                f"step of the grid only: {', '.join(bare)}."
            )
    edges = [sweep.title for sweep in found if any(each.edge for each in sweep.best)]
    if edges:
        yield f"Best learning rate at an edge of those tried, so that a better one may lie outside: {', '.join(edges)}."
    yield measure(found)


def written(ratio: Ratio) -> str:
    """Return a ratio and its interval, "9.8 (7.1 to 13.5)"."""
    ends = "" if ratio.low is None else f" ({fmt.number(ratio.low)} to {fmt.number(ratio.high)})"
    return f"{fmt.number(ratio.ratio)}{ends}"


def measure(found: Sequence[Sweep]) -> str:
    """Return what the best rates are the best of, and how their ratios' intervals are made."""
    return (
        f"Best learning rate: with the least of {found[0].measure}, in each seed read off a parabola through the "
        "best rate that was tried and its neighbours, over the logarithm of the rate; geometric mean over the seeds. "
        "Intervals of ratios: Student's t over the seeds. They do not generalize to other data or batch sizes."
    )
