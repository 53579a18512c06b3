"""What limits the comparison of measured rows, whatever was published: what the page says under its table too."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from peftbench.report.collect import Results
from peftbench.report.derived import smoke
from peftbench.report.folders import Part
from peftbench.report.guarded import guarded
from peftbench.report.names import renamer
from peftbench.report.notes import failures, methods, speed, unequal_settings, voids


def cautions(parts: Sequence[Part], tasks: Collection[str], with_times: bool) -> tuple[str, ...]:
    """Return a sentence for each thing that is not equal in a folder's rows, is missing, or is no measurement.

    Args:
        parts: the results folders of a table.
        tasks: the tasks whose scores it has.
        with_times: whether the table has times, which other work on the machine disturbs.
    """
    found = ((part, text) for part in parts for text in _of(part.results, tasks, with_times))
    return tuple(f"{part.name}: {text}" if len(parts) > 1 else text for part, text in found)


def _of(results: Results, tasks: Collection[str], with_times: bool) -> Iterator[str]:
    named = renamer(results)
    groups: tuple[tuple[str, Callable[[], Iterable[str | None]]], ...] = (
        ("smoke mode", lambda: smoke.notes(results)),
        ("guessing", lambda: voids.guessing(results, tasks)),
        ("missing trials", lambda: failures.missing(results)),
        ("unequal settings", lambda: unequal_settings.notes(results)),
        ("causality", lambda: methods.not_causal(results)),
        ("disturbed times", lambda: speed.cautions(results) if with_times else ()),
    )
    for what, make in groups:
        for text in guarded(f"notes on {what}", lambda made=make: tuple(made()), _alone):  # type: ignore[misc]
            if text:
                yield named(text)


def _alone(note: str) -> tuple[str | None, ...]:
    return (note,)
