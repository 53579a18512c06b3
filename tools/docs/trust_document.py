"""The generated part of ``docs/trust.md``, from the counts that ``python -m tools.validation.fuzz --write`` wrote."""

from __future__ import annotations

from tools.docs.crossed_document import markdown
from tools.validation.fuzz.__main__ import recorded
from tools.validation.fuzz.running import ENDINGS


def counts() -> str:
    """Return the table of inputs, one row per target and way of making them."""
    found = recorded()
    targets = sorted({target for target, _ in found.counts})
    lines = []
    for target in (*targets, None):
        each = [sum(n for key, n in found.counts.items() if key[1] == e and target in (key[0], None)) for e in ENDINGS]
        name, _, way = (target or "all").partition(", ")
        lines.append((name, way, f"{sum(each):,}", *(f"{number:,}" for number in each)))
    return markdown(("what reads it", "inputs", "tried", "read", "refused in words", "findings"), lines)
