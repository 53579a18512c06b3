"""The ranks that ``match:`` chose, as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from peftbench.planner.match import FAR, Match, far, miss


def lines(match: Match) -> Iterator[str]:
    """Yield the chosen ranks with how far each is from the budget, then the cells whose size was not chosen."""
    chosen = [f"{m.cell}: {m.parameters:,} ({miss(m.parameters, match.budget)})" for m in match.found if not m.reason]
    yield f"match: ranks for {match.budget:,} trainable parameters: {'; '.join(chosen) or 'none'}"
    for each in match.found:
        if each.reason:
            count = "" if each.parameters is None else f": {each.parameters:,}"
            yield f"match: not matched, {each.cell}{count} ({each.reason})"
        elif far(each.parameters, match.budget):
            yield f"match: no rank that this base model allows comes within {FAR:.0%} of the budget: {each.cell}"
