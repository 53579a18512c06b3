"""The findings of ``nano.md``: sentences about the committed grid on nano, made from the stored rows."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from peftbench.report.collect import MEAN, Cell, collect
from peftbench.results.seeds import welch_interval

RESULTS = Path(__file__).resolve().parents[2] / "results" / "reference" / "nano_grid"
SCORE = f"score_{MEAN}"
Place = tuple[str, int | None, str]
"""Method, rank, precision."""


@cache
def cells() -> dict[Place, Cell]:
    """Return the finished cells that train something, by place."""
    return {(c.method, c.rank, c.precision): c for c in collect(RESULTS).tuned}


def pairs(narrow: str, wide: str) -> Iterator[tuple[Cell, Cell]]:
    """Yield the cells of the same method and rank at two precisions."""
    for (method, rank, precision), cell in cells().items():
        other = cells().get((method, rank, wide))
        if precision == narrow and other is not None:
            yield cell, other


def score_differences() -> list[tuple[float, bool, Cell]]:
    """Return each cell below fp32 with its mean score minus fp32's, and whether that exceeds the noise of the seeds."""
    found = []
    for narrow in ("bf16", "int8", "nf4"):
        for cell, wide in pairs(narrow, "fp32"):
            compared = welch_interval(wide.summary.spreads[SCORE], cell.summary.spreads[SCORE])
            assert compared is not None
            difference, half_width = compared
            found.append((difference, abs(difference) > half_width, cell))
    return found


def rank_gains() -> dict[str, float]:
    """Return by how much each method's mean score at fp32 rises from its lowest rank to its best."""
    gains = {}
    for method in dict.fromkeys(method for method, rank, _ in cells() if rank is not None):
        by_rank = {r: c.mean(SCORE) or 0.0 for (m, r, p), c in cells().items() if (m, p) == (method, "fp32")}
        if by_rank:
            gains[method] = max(by_rank.values()) - by_rank[min(r for r in by_rank if r)]
    return gains


def ratios(column: str, narrow: str, wide: str) -> list[float]:
    """Return a column's ratios between two precisions, over methods and ranks."""
    return [(a.mean(column) or 0.0) / (b.mean(column) or 1.0) for a, b in pairs(narrow, wide)]


def markdown() -> str:
    """Return the findings as a list."""
    return "\n".join([_precision(), _ranks(), _memory(), _speed(), _lora_and_qlora()])


def _precision() -> str:
    found = score_differences()
    worst, _, cell = max(found, key=lambda one: abs(one[0]))
    return (
        f"- **Storage precision hardly changes scores here.** {sum(beyond for _, beyond, _ in found)} of {len(found)} "
        f"cells in bf16, int8 or nf4 differ from fp32 at the same method and rank by more than the noise of three "
        f"seeds (Welch's t test; about {0.05 * len(found):.0f} would by chance). The largest difference is "
        f"{100 * worst:+.1f} points ({cell.name}), the mean difference "
        f"{100 * sum(d for d, _, _ in found) / len(found):+.1f}. This says nothing about other base models."
    )


def _ranks() -> str:
    gains = ", ".join(
        f"{method} {100 * gain:.0f}" for method, gain in sorted(rank_gains().items(), key=lambda g: -g[1])
    )
    return (
        f"- **The rank changes scores a lot.** Points from a method's lowest rank to its best one, at fp32: {gains}. A "
        "higher rank is not always better: at fp32 adapters of width 128 score below those of width 64."
    )


def _memory() -> str:
    def span(narrow: str, wide: str) -> str:
        found = ratios("peak_train_bytes", narrow, wide)
        return f"{100 * min(found):.0f} to {100 * max(found):.0f} %"

    int8 = ratios("peak_train_bytes", "int8", "bf16")
    return (
        f"- **At this size bf16 saves memory**: its peaks are {span('bf16', 'fp32')} of fp32's, because it halves "
        f"activations. Peaks of nf4 are {span('nf4', 'bf16')} of bf16's; those of int8 are higher than bf16's in "
        f"{sum(ratio > 1 for ratio in int8)} of {len(int8)} cells. The weights are too few for their storage to matter."
    )


def _speed() -> str:
    def median(narrow: str) -> str:
        found = sorted(ratios("tokens_per_second", narrow, "fp32"))
        return f"{found[len(found) // 2]:.2f} ({found[0]:.2f} to {found[-1]:.2f})"

    return (
        "- **At the median no precision below fp32 is faster on this CPU**, though some cells are. tokens/s relative "
        "to fp32, median (lowest to highest) over methods and ranks: "
        f"bf16 {median('bf16')}, int8 {median('int8')}, nf4 {median('nf4')}. This says nothing about GPUs."
    )


def _lora_and_qlora() -> str:
    found = []
    for (method, rank, precision), cell in cells().items():
        other = cells().get(("lora", rank, "nf4"))
        if (method, precision) == ("qlora", "nf4") and other is not None:
            found.append(100 * ((cell.mean(SCORE) or 0.0) - (other.mean(SCORE) or 0.0)))
    differences = ", ".join(f"{difference:+.1f}" for difference in found)
    ranks = ", ".join(str(rank) for method, rank, _ in cells() if method == "qlora")
    return (
        "- **QLoRA is LoRA on nf4** with a paged optimizer instead of torch's: its mean score differs from that of "
        f"`lora` at nf4 by {differences} points at ranks {ranks}."
    )
