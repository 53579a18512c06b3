"""Compare two nights cell by cell: what regressed, improved, is unchanged or cannot be told, and what else moved."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from peftbench.records.watch import DEFAULT, Kind, Watch
from peftbench.results.busy_machine import BusyTrials, busy_trials
from peftbench.results.watch.by_kind import JUDGES
from peftbench.results.watch.findings import Cell, Finding
from peftbench.results.watch.moved import Moved, moved
from peftbench.results.watch.night import Night, read


@dataclass(frozen=True)
class Comparison:
    """What changed between two nights."""

    old: Night
    new: Night
    watch: Watch
    """What was judged, and from which change on."""
    findings: tuple[Finding, ...]
    """One for each cell and quantity that a side has, in the order of the kinds, the quantities and the grid."""
    only_old: tuple[str, ...]
    """Cells that the new night does not have."""
    only_new: tuple[str, ...]
    moved: tuple[Moved, ...]
    """What moved beside the numbers, the likeliest to matter first."""
    busy: tuple[BusyTrials | None, BusyTrials | None] = (None, None)
    """Trials of old and new whose times were measured on a busy machine; None if there are none."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The cells that both nights have."""
        return tuple(key for key in self.new.summaries if key in self.old.summaries)

    @property
    def unrelated(self) -> bool:
        """Whether these are results of different suites or base models without a common cell."""
        return self.old.contents != self.new.contents and not self.cells

    @property
    def regressed(self) -> bool:
        """Whether anything regressed."""
        return any(found.verdict == "regressed" for found in self.findings)

    @property
    def verdict(self) -> bool | None:
        """False if something regressed, True if something was judged and nothing did, None if nothing was judged.

        Statuses that did not change are nothing judged if there are numbers and none of them could be judged.
        """
        if self.regressed:
            return False
        numbers = [found for found in self.findings if found.quantity.kind != "status"]
        moved = any(found.verdict == "improved" for found in self.findings)
        judged = numbers if numbers and not moved else self.findings
        return True if any(found.judged for found in judged) else None

    def of(self, verdict: str) -> tuple[Finding, ...]:
        """Return the findings with a verdict."""
        return tuple(found for found in self.findings if found.verdict == verdict)


def compare(old: Path | str | Night, new: Path | str | Night, watch: Watch | None = None) -> Comparison:
    """Return what changed from one night to another.

    Cells are matched by base model and name. Only rows of a folder's recorded grid count, or the latest row of each
    seed if no grid was recorded. A cell that only one folder has is listed and is no regression, because suites grow
    and shrink and ``--only`` selects; if the new night's grid is not finished, it cannot be told.

    Args:
        old: the night to compare with, or its results folder.
        new: the night to judge, or its results folder.
        watch: what is judged; None for what the suite of the new night says, else that of the old one, else
            ``records.watch.DEFAULT``.

    Raises:
        UserError: if a folder holds no results, or rows of one folder are not comparable with each other.
    """
    before, after = (side if isinstance(side, Night) else read(side) for side in (old, new))
    chosen = watch or after.watch or before.watch or DEFAULT
    common = [key for key in after.summaries if key in before.summaries]
    findings = tuple(_findings(before, after, common, chosen))
    changed: dict[Kind, None] = {
        found.quantity.kind: None for found in findings if found.verdict in ("regressed", "improved")
    }
    return Comparison(
        before,
        after,
        chosen,
        findings,
        tuple(cell for base, cell in before.summaries if (base, cell) not in after.summaries),
        tuple(cell for base, cell in after.summaries if (base, cell) not in before.summaries),
        moved(before, after, common, changed),
        (busy_trials(before.trials), busy_trials(after.trials)),
    )


def _findings(old: Night, new: Night, common: list[Cell], watch: Watch) -> Iterable[Finding]:
    for kind, judge in JUDGES.items():
        if kind in watch.judge:
            yield from judge(old, new, common, watch)
