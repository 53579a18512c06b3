"""What follows from the committed grid on nano, each sentence made from the stored rows."""

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
    """Return, for each cell below fp32, its mean score less fp32's, and whether that is beyond the seeds' noise."""
    found = []
    for narrow in ("bf16", "int8", "nf4"):
        for cell, wide in pairs(narrow, "fp32"):
            told = welch_interval(wide.summary.spreads[SCORE], cell.summary.spreads[SCORE])
            assert told is not None
            found.append((told[0], abs(told[0]) > told[1], cell))
    return found


def rank_gains() -> dict[str, float]:
    """Return how much each method's mean score at fp32 rises from its lowest rank to its best."""
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
        f"- **Storage precision hardly moves scores here.** Of {len(found)} cells in bf16, int8 or nf4, "
        f"{sum(beyond for _, beyond, _ in found)} differ from fp32 at the same method and rank beyond the noise of "
        f"three seeds (Welch's t; chance alone would give about {0.05 * len(found):.0f}); the largest difference is "
        f"{100 * worst:+.1f} points ({cell.name}), on average they are "
        f"{100 * sum(d for d, _, _ in found) / len(found):+.1f}. Of other bases this says nothing."
    )


def _ranks() -> str:
    told = ", ".join(f"{method} {100 * gain:.0f}" for method, gain in sorted(rank_gains().items(), key=lambda g: -g[1]))
    return (
        f"- **Size moves them a lot.** From its lowest rank to its best, at fp32, in points: {told}. More is not "
        "always better: at fp32 adapters of width 128 are below those of 64."
    )


def _memory() -> str:
    def span(narrow: str, wide: str) -> str:
        found = ratios("peak_train_bytes", narrow, wide)
        return f"{100 * min(found):.0f} to {100 * max(found):.0f} %"

    int8 = ratios("peak_train_bytes", "int8", "bf16")
    return (
        f"- **bf16 is what saves memory at this size**: its peaks are {span('bf16', 'fp32')} of fp32's, as activations "
        f"halve with it. nf4's are {span('nf4', 'bf16')} of bf16's; int8's are above bf16's in "
        f"{sum(ratio > 1 for ratio in int8)} of {len(int8)} cells. The weights are too few for their storage to matter."
    )


def _speed() -> str:
    def median(narrow: str) -> str:
        found = sorted(ratios("tokens_per_second", narrow, "fp32"))
        return f"{found[len(found) // 2]:.2f} ({found[0]:.2f} to {found[-1]:.2f})"

    return (
        "- **At the median nothing below fp32 is faster on this CPU**, though some cells are. tokens/s as a share of "
        "fp32's, median (lowest to highest) over methods and ranks: "
        f"bf16 {median('bf16')}, int8 {median('int8')}, nf4 {median('nf4')}. This says nothing of GPUs."
    )


def _lora_and_qlora() -> str:
    found = []
    for (method, rank, precision), cell in cells().items():
        other = cells().get(("lora", rank, "nf4"))
        if (method, precision) == ("qlora", "nf4") and other is not None:
            found.append(100 * ((cell.mean(SCORE) or 0.0) - (other.mean(SCORE) or 0.0)))
    told = ", ".join(f"{difference:+.1f}" for difference in found)
    ranks = ", ".join(str(rank) for method, rank, _ in cells() if method == "qlora")
    return (
        "- **QLoRA is LoRA on nf4**: with the paged optimizer instead of torch's its mean differs from `lora` at nf4 "
        f"by {told} points at ranks {ranks}."
    )
