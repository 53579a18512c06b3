"""Whether trials end ok as before."""

from __future__ import annotations

from peftbench.records.wording import plural
from peftbench.results.seeds import Summary
from peftbench.results.watch.findings import Cell, Finding, Verdict
from peftbench.results.watch.night import Night
from peftbench.results.watch.quantities import STATUS

RULE = "share of trials that end ok"


def judge(cell: Cell, old: Night, new: Night) -> Finding:
    """Return the verdict on how a cell's trials ended.

    A smaller share of ok trials is a regression, a larger one an improvement. Fewer seeds than before, all of them as
    good, are no regression, because a suite may ask for fewer; the finding says so. Of a cell without an ok trial on
    either side nothing can be told.
    """
    was, now = old.summaries[cell], new.summaries[cell]
    before, after = (_share(side) for side in (was, now))
    totals = tuple(sum(side.counts.values()) for side in (was, now))
    lost = totals[0] - totals[1]
    verdict: Verdict = "regressed" if after < before else "improved" if after > before else "unchanged"
    reason = None
    if after < before:
        reason = f"{words(was)} before, {words(now)} now" + (f": {_first_line(now)}" if now.messages else "")
    elif was.counts != now.counts:
        reason = f"{words(was)} before, {words(now)} now"
    if verdict == "unchanged" and lost > 0 and new.unfinished:
        verdict, reason = "cannot tell", f"{lost} of {totals[0]} trials have no result yet"
    elif not before and not after:
        verdict, reason = "cannot tell", f"no trial ended ok on either side: {words(was)} before, {words(now)} now"
    return Finding(*cell, STATUS, verdict, RULE, before, after, (totals[0], totals[1]), after - before, reason=reason)


def missing(cell: Cell, old: Night, new: Night) -> Finding:
    """Return the finding about a cell of the old night that has no row in a new night whose grid is not finished."""
    was = old.summaries[cell]
    before, total = _share(was), sum(was.counts.values())
    why = f"no result yet: the new night's grid has {plural(new.unfinished, 'trial')} without one"
    return Finding(*cell, STATUS, "cannot tell", RULE, before, None, (total, 0), reason=why)


def words(summary: Summary) -> str:
    """Return the number of trials by status: "2 ok, 1 oom"."""
    return ", ".join(f"{count} {status}" for status, count in summary.counts.items())


def _share(summary: Summary) -> float:
    return summary.ok / max(1, sum(summary.counts.values()))


def _first_line(summary: Summary) -> str:
    return f"{summary.messages[0]}\n".splitlines()[0][:120]
