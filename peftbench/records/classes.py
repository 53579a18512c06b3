"""Counts of examples by class, in words."""

from __future__ import annotations

from collections.abc import Mapping

from peftbench.records.wording import plural

_SHOWN = 5


def absent(counts: Mapping[str, int]) -> str | None:
    """Return which classes no scored example has, as a sentence without a full stop; None if each has one.

    If all scored examples are of one class, the sentence says that the score means nothing.
    """
    scored_classes = [name for name, count in counts.items() if count]
    if len(scored_classes) == 1 and sum(counts.values()) > 1:
        (only,) = scored_classes
        return (
            f"all {sum(counts.values()):,} scored examples have the answer {only!r}, so a model that always gives it "
            "scores 100 %: this score says nothing about a method"
        )
    missing = [name for name, count in counts.items() if not count]
    if not missing:
        return None
    names = ", ".join(repr(name) for name in missing[:_SHOWN])
    more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
    scored = plural(sum(counts.values()), "scored example")
    return f"none of the {scored} has the answer {names}{more}: {len(missing)} of {len(counts)} classes are not scored"
