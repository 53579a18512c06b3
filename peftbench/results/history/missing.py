"""What a history does not judge although it looks as if it did: told in sentences."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from peftbench.records.watch import Kind
from peftbench.records.wording import abridged, plural
from peftbench.results.busy_machine import is_void
from peftbench.results.history.nights import Night
from peftbench.results.history.series import Series
from peftbench.results.watch.quantities import Quantity

_MOST = 5
"""Nights that a sentence names."""


def what_is_missing(nights: Sequence[Night], found: Sequence[Series], watched: Collection[Kind]) -> list[str]:
    """Return sentences about a newest night that is not finished, speeds of busy trials, and series that were divided.

    Args:
        nights: the oldest first.
        found: their series.
        watched: the kinds of quantities that are judged.
    """
    busy = _busy(nights) if "speed" in watched else ()
    return [*_unfinished(nights), *busy, *_divided(nights, found)]


def _unfinished(nights: Sequence[Night]) -> Iterator[str]:
    if nights and nights[-1].unfinished:
        trials = plural(nights[-1].unfinished, "trial")
        yield f"{nights[-1].name}, the newest night: {trials} of its grid without a result yet; they are not judged"


def _busy(nights: Sequence[Night]) -> Iterator[str]:
    listed = []
    for night in reversed(nights):
        ok = [row for row in night.rows if row["status"] == "ok"]
        busy = sum(map(is_void, ok))
        if busy:
            listed.append(f"{busy} of {plural(len(ok), 'trial')} of {night.name}")
        if busy and busy == len(ok) and night is nights[-1]:
            yield f"{night.name}, the newest night, has no speed that counts: its machine was busy in every trial"
    if listed:
        yield f"speeds on a busy machine are left out: {abridged(listed, _MOST)}"


def _divided(nights: Sequence[Night], found: Sequence[Series]) -> Iterator[str]:
    """Yield which series begin anew, because numbers of other conditions are not comparable with those before."""
    by_cell: dict[tuple[tuple[str, str], Quantity], list[Series]] = {}
    for series in found:
        by_cell.setdefault((series.key, series.quantity), []).append(series)
    cells: dict[tuple[str, int, str], list[str]] = {}
    for group in by_cell.values():
        if len(group) > 1:
            *_, before, newest = sorted(group, key=lambda each: each.points[-1].night)
            names = _differing(before, newest)
            cells.setdefault((newest.quantity.title, newest.points[0].night, names), []).append(newest.cell)
    for (title, night, names), listed in cells.items():
        yield (
            f"{title} of {abridged(listed, _MOST)}: a new series begins at {nights[night].name}, because {names} "
            "changed; earlier nights are not comparable"
        )


def _differing(before: Series, newest: Series) -> str:
    one, other = dict(before.conditions), dict(newest.conditions)
    names = [name for name in other if name in one and one[name] != other[name]]
    if before.exact != newest.exact and not names:
        names = ["device"]
    return " and ".join(names) or "seeds"
