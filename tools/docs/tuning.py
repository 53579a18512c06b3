"""The learning rates that suites/nano_tuning.yaml found best on validation, for each method and rank."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from peftbench.report.collect import MEAN, collect

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "results" / "reference" / "nano_tuning"
Setting = tuple[str, int | None]
"""Method and rank."""


@cache
def means() -> Mapping[Setting, Mapping[float, float]]:
    """Return each candidate rate of each method and rank with its score: mean over tasks, then over seeds."""
    found: dict[Setting, dict[float, float]] = {}
    for cell in collect(RESULTS).finished:
        (rate,) = set(cell.ok["learning_rate"])
        found.setdefault((cell.method, cell.rank), {})[rate] = cell.mean(f"score_{MEAN}") or 0.0
    return found


def chosen() -> dict[Setting, float]:
    """Return the best candidate of each method and rank; the lowest of equal ones."""
    return {setting: max(sorted(rates), key=rates.__getitem__) for setting, rates in means().items()}


def markdown() -> str:
    """Return the table of candidates; the selected one is bold, and marked if it is the highest or lowest candidate."""
    lines = ["| method | rank | mean score on validation, %, at each learning rate | selected |", "|---|---:|---|---:|"]
    best = chosen()
    for (method, rank), rates in sorted(means().items(), key=lambda item: (item[0][0], item[0][1] or 0)):
        rate = best[method, rank]
        shown = ", ".join(
            f"**{score:.1%}** at {r:g}" if r == rate else f"{score:.1%} at {r:g}" for r, score in sorted(rates.items())
        ).replace("%", "")
        edge = " (edge)" if rate in (min(rates), max(rates)) else ""
        lines.append(f"| {method} | {'–' if rank is None else rank} | {shown} | {rate:g}{edge} |")
    return "\n".join(lines)


def edges() -> str:
    """Return a sentence about the selected rates that are the highest or lowest of their candidates."""
    best = chosen()
    found = []
    for (method, rank), rates in means().items():
        rate = best[method, rank]
        if rate in (min(rates), max(rates)):
            name = method if rank is None else f"{method} at rank {rank}"
            next_best = max(score for each, score in rates.items() if each != rate)
            found.append(f"{name} ({rates[rate]:.1%}, the next best candidate {next_best:.1%})".replace("%", " %"))
    if not found:
        return "No selected rate is at the end of its candidates."
    return f"At the end of their candidates are the rates of {'; '.join(found)}."


if __name__ == "__main__":
    print(markdown())
