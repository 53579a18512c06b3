"""The words of a laid-out table: heads, entries, caption and notes, which all formats share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from peftbench.records import units as fmt
from peftbench.records.wording import series
from peftbench.report.published.arrange import LaidOut, Line, Printed, TableRow
from peftbench.report.published.load import mismatches
from peftbench.report.published.measured import MEANT, Measured
from peftbench.report.published.records import LayoutColumn, PublishedTable

DIMENSIONS = {
    "task": "task",
    "base": "base model",
    "method": "method",
    "rank": "rank",
    "parameters": "trainable",
    "precision": "precision",
    "targets": "target modules",
}
"""Head of each dimension of a row."""
SOURCE = "source"
"""Head of the column that tells published rows from measured ones."""
MEASURED = "measured"
WORSE = "†"
_TESTED = "crossed model of seeds and examples, Holm-adjusted p < 0.05"
BADGES = {
    "same protocol": (
        "same",
        "the source states every part of the protocol that this table needs, and every part that it states is equal "
        "here (versions of software are no part)",
    ),
    "differs": ("differs", "parts that are stated and recorded are different; the note names them"),
    "unknown": (
        "?",
        "nothing was found to differ, but the source does not state a part, or our rows do not record it; the note "
        "says which of the two",
    ),
}
"""Kind of a badge to how it is written, and what that means."""
PLACES = {True: "in", False: "out"}
"""How it is written that a number lies in the measured interval, or not."""
_HANDS = {
    "conversion": "read in a conversion of the paper's text",
    "secondary": "read second-hand: check the source before quoting",
    "memory": "from memory, not read",
}


def head(column: LayoutColumn) -> str:
    """Return "MNLI (%)"."""
    return f"{column.head} ({column.unit})" if column.unit else column.head


def interval(one: Measured) -> str:
    """Return " [86.9, 88.1]"; empty if there is no interval."""
    if one.low is None or one.high is None:
        return ""
    return f" [{one.low:,.{one.digits}f}, {one.high:,.{one.digits}f}]"


def measured(line: Line, column: LayoutColumn) -> str:
    """Return what was measured in a column, without its mark: "87.5 ± 0.3 [86.9, 88.1]", "oom" or "–"."""
    one = line.measured.get(column.key)
    if one is None:
        return line.statuses.get(column.key) or fmt.MISSING
    return fmt.spread(one.value, one.sd, digits=one.digits) + interval(one)


def printed(one: Printed) -> str:
    """Return a published number without its badge: "86.6 ± 0.7", "OOM"."""
    return one.status if one.value is None else fmt.spread(one.value, one.spread, digits=one.digits)


def standing(one: Printed) -> str:
    """Return whether a number lies in the measured interval, and its badge in short: "out, differs"."""
    where = "" if one.inside is None else PLACES[one.inside]
    return ", ".join(filter(None, (where, BADGES[one.badge.kind][0] if one.badge else "")))


def heads(rows: Sequence[TableRow]) -> Iterator[tuple[str, ...]]:
    """Yield the head of each row; it is empty where the row above has the same, for what is published of it."""
    before = None
    for row in rows:
        yield ("",) * len(row.line.head) if row.line.of == before else row.line.head
        before = row.line.of


def statistics(table: LaidOut) -> tuple[str, ...]:
    """Return over which seeds and examples numbers are, and what brackets and marks mean, as sentences."""
    return tuple(filter(None, (_statistics(table), _tests(table))))


def legend(
    table: LaidOut, places: Mapping[bool, str] = PLACES, badges: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Return what stands behind published numbers, a sentence for each mark that the table has.

    Args:
        table: what it is of.
        places: how it is written that a number lies in the measured interval, or not.
        badges: how badges are written; None for ``BADGES``.
    """
    every = [one for line in table.lines for one in line.printed.values()]
    if not every:
        return ()
    said = ["Published numbers stand as printed, with their spread; the number at a source is that of its note."]
    if any(one.inside is not None for one in every):
        over = dict.fromkeys(one.over for _, one in _every(table) if one.low is not None)
        said.append(
            f"{places[True]}, {places[False]}: inside, outside of the measured 95 % interval for {' or '.join(over)}, "
            "as far as printed."
        )
    kinds = {one.badge.kind for one in every if one.badge}
    written = badges or {kind: short for kind, (short, _) in BADGES.items()}
    return (*said, *(f"{written[kind]}: {meaning}." for kind, (_, meaning) in BADGES.items() if kind in kinds))


def _every(table: LaidOut) -> Iterable[tuple[LayoutColumn, Measured]]:
    for column in table.columns:
        for line in table.lines:
            if column.key in line.measured:
                yield column, line.measured[column.key]


def _statistics(table: LaidOut) -> str:
    found = list(_every(table))
    if not found:
        return "Nothing was measured."
    seeds = sorted({one.seeds for _, one in found})
    over = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    what = "Single runs" if seeds == [1] else f"Mean ± standard deviation over seeds ({over})"
    meant = dict.fromkeys(one.over for _, one in found if one.low is not None)
    what += f", in brackets the 95 % interval for {' or '.join(meant)}" if meant else ""
    counts: dict[str, set[int]] = {}
    for column, one in found:
        if one.examples is not None:
            counts.setdefault(column.head, set()).add(one.examples)
    if not counts:
        return f"{what}."
    if len({frozenset(each) for each in counts.values()}) == 1:
        return f"{what}; n = {_counts(next(iter(counts.values())))} test examples."
    each = ", ".join(f"{_counts(numbers)} in {title}" for title, numbers in counts.items())
    return f"{what}; test examples: {each}."


def _counts(numbers: Iterable[int]) -> str:
    return " or ".join(f"{number:,}" for number in sorted(numbers))


def _tests(table: LaidOut) -> str:
    found = list(_every(table))
    tested = [one for _, one in found if one.adjusted_p is not None and one.over == MEANT]
    if not tested:
        return "No differences were tested." if found else ""
    without = [column.head for column in table.columns if _untested(column, found)]
    limits = f" Not tested: {series(without)}." if without else ""
    if not any(one.mark for _, one in found):
        return (
            f"No row is significantly better or worse than the best of its folder and base model ({_TESTED}).{limits}"
        )
    return (
        "Bold: significantly better than every other row of its folder and base model; underlined: second, "
        f"significantly better than all below it; {WORSE}: significantly worse than the best ({_TESTED}).{limits}"
    )


def _untested(column: LayoutColumn, found: Sequence[tuple[LayoutColumn, Measured]]) -> bool:
    mine = [one for of, one in found if of is column]
    return len(mine) > 1 and all(one.adjusted_p is None for one in mine)


def notes(table: LaidOut) -> tuple[str, ...]:
    """Return the notes of published rows, the first first: "Differs: seeds (5; here 3)."."""
    return tuple(f"{note}." for note in table.notes)


def about(table: LaidOut) -> tuple[str, ...]:
    """Return what is under the notes: what limits the comparison, folders without anything to show, and the sources."""
    empty = f"Nothing of this table in: {series(list(table.empty_folders))}." if table.empty_folders else ""
    named = zip((source.name for source in table.layout.published), table.sources, strict=False)
    return tuple(filter(None, (*table.cautions, empty, *(_source(name, source) for name, source in named))))


def _source(name: str, source: PublishedTable) -> str:
    said = [
        f"{name[0].upper()}{name[1:]}: {source.title}, {source.url}",
        _HANDS.get(source.hand, ""),
        source.statistic,
        source.unit,
    ]
    wrong = mismatches(source)
    if wrong:
        said.append(f"printed averages that do not follow from their cells: {len(wrong)}")
    return "; ".join(filter(None, said)) + "."
