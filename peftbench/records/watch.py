"""What a comparison of two nights judges, and from which change on something counts (``watch:`` of a suite)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

Kind = Literal["status", "memory", "speed", "size", "score", "retention", "inference", "merge"]
"""The kinds of numbers that are judged, each by a model of its own."""
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Watch:
    """What is judged, and the least changes that count. A change up to these is none."""

    judge: tuple[Kind, ...] = KINDS
    """The kinds that are judged."""
    speed_percent: float = 5.0
    """Least change of training speed, in percent of what it was."""
    inference_percent: float = 5.0
    """Least change of inference cost relative to the bare base model, in percent of what it was."""
    memory_percent: float = 0.0
    """Growth of a memory peak that is tolerated, in percent of what it was."""
    size_percent: float = 0.0
    """Growth of a file or of loaded weights that is tolerated, in percent of what it was."""
    score_points: float = 0.0
    """Fall of a score that is tolerated, in points."""
    retention_percent: float = 0.0
    """Rise of the loss on general text after training that is tolerated, in percent of what it was."""
    merge_factor: float = 2.0
    """Factor by which the rounding error of merging may grow; it is the largest of many, and has no known spread."""
    machine_percent: float = 8.0
    """Standard deviation of the change of the machine's own speed between two nights, in percent, where its matrix
    product was not measured."""


DEFAULT = Watch()
"""What is judged if neither the suite nor an option says otherwise."""


def from_plain(given: Mapping[str, Any]) -> Watch:
    """Return a watch from plain data, as it is recorded with a grid; keys of later versions are left out.

    Raises:
        TypeError: if it is not a mapping, or a value is not of its type.
    """
    if not isinstance(given, Mapping):
        raise TypeError(f"watch is {given!r:.60}, not a mapping")
    known = {field.name: given[field.name] for field in fields(Watch) if field.name in given}
    for name, value in known.items():
        right = isinstance(value, list | tuple) if name == "judge" else isinstance(value, int | float)
        if not right or isinstance(value, bool):
            raise TypeError(f"watch.{name} is {value!r:.60}")
    if "judge" in known:
        known["judge"] = tuple(kind for kind in KINDS if kind in known["judge"])
    return Watch(**known)
