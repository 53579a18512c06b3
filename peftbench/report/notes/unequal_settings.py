"""Notes on settings, inputs and environments that are not equal in all rows, although they are not an axis."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

from peftbench.records.units import memory
from peftbench.report.collect import Results, method_title
from peftbench.report.derived.unequal_settings import AuditRow, UnequalField, audit
from peftbench.report.flat import plain

_MOST = 6
"""Rows that are named before the others are only counted."""
_LONGEST = 60
"""Longest value in characters."""


def notes(results: Results) -> tuple[str, ...]:
    """Return a sentence for each kind of field that differs between rows; none if the comparison is fair."""
    found = audit(results)
    texts: dict[str, list[str]] = defaultdict(list)
    for group in found.groups:
        texts[group[0].kind].append(_group(group, found.rows))
    return tuple(
        f"Not held equal, and not an axis of the grid ({kind}): {'; '.join(each)}." for kind, each in texts.items()
    )


def _group(alike: Sequence[UnequalField], rows: Sequence[AuditRow]) -> str:
    """Return the values of fields that differ in the same way, each with the rows that have it."""
    by_value = [places for _, places in alike[0].values]
    everything = [place for places in by_value for place in places]
    parts = []
    for index, places in enumerate(by_value):
        values = ", ".join(f"{_short(found.name)} {_value(found.name, found.values[index][0])}" for found in alike)
        names = _names(places, everything, rows)
        rest = index and places is by_value[-1] and len(names) > 2
        more = len(names) - _MOST
        shown = names if more <= 1 else [*names[:_MOST], f"and {more} more"]
        parts.append(f"{values} ({'the others' if rest else ', '.join(shown)})")
    return ", ".join(parts)


def _short(name: str) -> str:
    return re.sub(r"^(options|train|tasks|evaluation|base)\.", "", name)


def _value(name: str, value: str) -> str:
    if re.fullmatch("[0-9a-f]{32,}", value):
        return value[:12]
    if name.endswith("_bytes") and value.isdigit():
        return memory(int(value))
    return value if len(value) <= _LONGEST else f"{value[: _LONGEST - 3]}..."


def _names(places: Iterable[int], everything: Sequence[int], rows: Sequence[AuditRow]) -> list[str]:
    """Name some rows: a method if these are all of its rows, else a cell, else the seeds of a cell."""
    left, named = list(places), []
    for kind in dict.fromkeys(rows[place].cell.kind for place in left):
        left, found = _take(left, everything, lambda place, kind=kind: rows[place].cell.kind == kind)  # type: ignore[misc]
        named += [method_title(kind)] if found else []
    for cell in dict.fromkeys(rows[place].cell.name for place in left):
        left, found = _take(left, everything, lambda place, cell=cell: rows[place].cell.name == cell)  # type: ignore[misc]
        named += [cell] if found else []
    seeds: dict[str, list[str]] = defaultdict(list)
    for place in left:
        seeds[rows[place].cell.name].append(plain(rows[place].seed))
    return [*named, *(f"{cell} seed {', '.join(own)}" for cell, own in seeds.items())]


def _take(left: list[int], everything: Sequence[int], of: Callable[[int], bool]) -> tuple[list[int], bool]:
    """Take the rows of one kind out of what is left, if all of them are still there; return whether they were."""
    whole = {place for place in everything if of(place)}
    return ([place for place in left if place not in whole], True) if whole <= set(left) else (left, False)
