"""The words and numbers of a comparison of two nights, the same in all forms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from peftbench.records.units import MISSING, integer, memory, number, percent, small
from peftbench.records.watch import KINDS
from peftbench.records.wording import abridged, plural
from peftbench.report.notes import busy
from peftbench.results.watch.comparison import Comparison
from peftbench.results.watch.findings import ALL_CELLS, VERDICTS, Finding
from peftbench.results.watch.moved import Moved

HEAD = ("verdict", "cell", "quantity", "old", "new", "change", "95 % interval", "note")
RIGHT = (3, 4, 5, 6)
"""Columns of numbers."""
_CHANGED = ("regressed", "improved")
_MOST_NAMED = 4
"""Cells that a sentence names; more are counted."""
_MOST_LISTED = 12
"""Cells of only one side that are named."""


@dataclass(frozen=True)
class Group:
    """Findings that cannot be told for one reason, of one quantity."""

    quantity: str
    reason: str
    cells: tuple[str, ...]
    common: bool = True
    """Whether these are cells that both nights have."""

    def sentence(self, of: int) -> str:
        """Return "score of judge of all 14 cells: data_sha256 is ..."."""
        named = cells(self.cells, of) if self.common else abridged(self.cells, _MOST_NAMED)
        return f"{self.quantity} of {named}: {self.reason}"


def cells(names: Sequence[str], of: int) -> str:
    """Return cells by name if they are few, else their number."""
    if len(names) == of > 1:
        return f"all {of} cells"
    return ", ".join(names) if len(names) <= _MOST_NAMED else f"{len(names)} of {of} cells"


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Return findings with regressions first, then improvements, else in their order."""
    return sorted(findings, key=lambda found: VERDICTS.index(found.verdict))


def changes(comparison: Comparison) -> list[Finding]:
    """Return what regressed or improved, regressions first."""
    return ordered(found for found in comparison.findings if found.verdict in _CHANGED)


def cannot_tell(comparison: Comparison) -> list[Group]:
    """Return what cannot be told, by reason and quantity, without what is said of all cells together."""
    groups: dict[tuple[str, str, bool], list[str]] = {}
    both = set(comparison.cells)
    for found in comparison.of("cannot tell"):
        if found.cell != ALL_CELLS:
            key = found.quantity.title, found.reason or "", found.key in both
            groups.setdefault(key, []).append(name(found, comparison))
    return [Group(title, reason, tuple(names), common) for (title, reason, common), names in groups.items()]


def together(comparison: Comparison) -> list[str]:
    """Return a sentence for each quantity, and each base model if there are several, about what all cells did.

    What regressed or improved is not among them: its row has the reason.
    """
    several = len({base for base, _ in comparison.cells}) > 1
    return [
        f"{found.quantity.title}{f' on {found.base}' if several else ''}: {found.reason}"
        for found in comparison.findings
        if found.cell == ALL_CELLS and found.reason and found.verdict not in _CHANGED
    ]


def counted(n: int) -> str:
    """Return "1 quantity of a cell" or "12 quantities of cells"."""
    return "1 quantity of a cell" if n == 1 else f"{n:,} quantities of cells"


def name(found: Finding, comparison: Comparison) -> str:
    """Return a cell's name, with its base model if there are several."""
    return f"{found.cell} on {found.base}" if len({base for base, _ in comparison.cells}) > 1 else found.cell


def row(found: Finding, comparison: Comparison) -> tuple[str, ...]:
    """Return a finding as the cells of a table with ``HEAD``."""
    return (
        found.verdict,
        name(found, comparison),
        found.quantity.title,
        *values(found),
        interval(found),
        found.reason or "",
    )


def values(found: Finding) -> tuple[str, str, str]:
    """Return the old and the new value with their numbers of trials, and the change."""
    sides = zip((found.old, found.new), found.trials, strict=True)
    shown = [MISSING if value is None else f"{value_text(found, value)}{_trials(n)}" for value, n in sides]
    return shown[0], shown[1], change(found, found.change)


def _trials(n: int) -> str:
    return f" (n={n})" if n > 1 else ""


def value_text(found: Finding, value: float) -> str:
    """Return a value with its unit."""
    unit = found.quantity.unit
    if unit == "bytes":
        return memory(value, None)
    if unit == "parameters":
        return integer(value)
    if unit == "fraction":
        return percent(value)
    if unit == "ratio":
        return f"{value:.2f}x"
    return {"tokens per second": f"{number(value)}/s", "nats per token": f"{value:.4f}"}.get(unit, small(value))


def change(found: Finding, value: float | None) -> str:
    """Return a change in percent of what it was; of scores in points, of shares in percentage points."""
    if value is None:
        return MISSING
    if value in (float("inf"), float("-inf")):
        return "from zero"
    text = f"{100 * value:+.{1 if abs(value) >= 0.001 else 3}f}" if value else "0"
    return f"{text} %" if found.quantity.relative else f"{text} points"


def interval(found: Finding) -> str:
    """Return the 95 % interval of the change; nothing if there is none."""
    if found.low is None or found.high is None:
        return ""
    ends = [change(found, end).rpartition(" ")[0] or change(found, end) for end in (found.low, found.high)]
    return " to ".join(ends)


def heading(comparison: Comparison) -> str:
    """Return the verdict in a line."""
    if comparison.verdict is None:
        return "no verdict: nothing could be judged"
    cells_own = [found for found in comparison.findings if found.cell != ALL_CELLS]
    judged = sum(found.judged for found in cells_own)
    open_ = len(cells_own) - judged
    told = f"{judged} of {counted(len(cells_own))} judged"
    rest = f", {open_} cannot be told" if open_ else ""
    regressed = comparison.of("regressed")
    if not regressed:
        improved = len(comparison.of("improved"))
        return f"no regression: {told}" + (f", {improved} improved" if improved else "") + rest
    return f"regressed: {_by_quantity(regressed, comparison)}; {told}{rest}"


def _by_quantity(findings: Iterable[Finding], comparison: Comparison) -> str:
    groups: dict[str, list[str]] = {}
    for found in findings:
        groups.setdefault(found.quantity.title, []).append(name(found, comparison))
    listed = []
    for title, names in groups.items():
        own = [each for each in names if not each.startswith(ALL_CELLS)]
        shown = own if len(own) <= _MOST_NAMED and own else None
        listed.append(f"{title} of {', '.join(shown) if shown else plural(len(own), 'cell') if own else ALL_CELLS}")
    return "; ".join(listed)


def moved(each: Moved) -> str:
    """Return one thing that moved in a line."""
    where = f" (in {', '.join(each.cells)})" if each.cells else ""
    why = f"; may explain {', '.join(each.may_explain)}" if each.may_explain else ""
    return f"{each.what} {each.name}: {_brief(each.old)} -> {_brief(each.new)}{where}{why}"


def _brief(text: str) -> str:
    """Return a text of reasonable length: hashes by their beginning."""
    plain = text.strip('"')
    if len(plain) >= 40 and " " not in plain and all(char in "0123456789abcdef" for char in plain):
        return plain[:12]
    return text if len(text) <= 120 else f"{text[:119]}…"


def remarks(comparison: Comparison) -> list[str]:
    """Return sentences about cells that only one side has, rows that were left out, and busy machines."""
    found = []
    for side, names in (("old", comparison.only_old), ("new", comparison.only_new)):
        if names:
            found.append(f"only in {side}: {abridged(names, _MOST_LISTED)}")
    for side, night in (("old", comparison.old), ("new", comparison.new)):
        if night.unfinished:
            found.append(f"{side}: {plural(night.unfinished, 'trial')} of the grid without a result yet")
        if night.excluded:
            rows = plural(night.excluded, "stored row")
            found.append(f"{side}: {rows} not of the grid that was last run, or older: excluded")
    for side, trials in zip(("old", "new"), comparison.busy, strict=True):
        if trials is not None:
            found.append(f"{side}: {busy.sentence(trials)} They are not compared.")
    left = [kind for kind in KINDS if kind not in comparison.watch.judge]
    if left:
        found.append(f"not judged, as watch says: {', '.join(left)}")
    return found


def unrelated(comparison: Comparison) -> str:
    """Return two lines that name what the folders are results of."""
    old, new = (
        f"{side.name} is suite {', '.join(side.contents[0])} on {', '.join(side.contents[1])}"
        for side in (comparison.old, comparison.new)
    )
    return f"no verdict: no cell is in both folders, so nothing can be compared\n{old}; {new}"
