"""What an answer does not know: cells that were not judged, failed or have not run, and trials without a result yet."""

from __future__ import annotations

from collections.abc import Iterator

from peftbench.records.wording import abridged, plural
from peftbench.report.derived.answer import Answer


def finishing(found: Answer) -> Iterator[str]:
    """Yield that the run is to be finished first, if trials that have no result yet can change the answer."""
    if found.finish_first:
        have, ends = "has" if found.missing == 1 else "have", ":" if found.command else "."
        of = f"{found.missing:,} of its {plural(found.asked, 'trial')}"
        yield f"First finish the run, as {of} {have} no result yet{ends}"


def not_judged(found: Answer) -> Iterator[str]:
    """Yield the tuned cells that were not judged, a sentence for each reason."""
    reasons: dict[str, list[str]] = {}
    for name, reason in found.decision.left_out.items():
        reasons.setdefault(reason, []).append(name)
    for reason, names in reasons.items():
        yield f"Not judged: {abridged(names, 3)} ({reason})."


def unfinished(found: Answer) -> Iterator[str]:
    """Yield the tuned cells of which no trial ended ok, and those that have not run yet."""
    ended = [f"{name} ({how})" for name, how in found.unfinished.items() if how]
    if ended:
        yield f"No trial ended ok for {abridged(ended, 3)}."
    waiting = [name for name, how in found.unfinished.items() if not how]
    if waiting:
        yield f"Not run yet: {abridged(waiting, 3)}."
