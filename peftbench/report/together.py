"""All results folders of a report together: which may stand in one plot and one part of the table, and which not."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict
from typing import Any

from peftbench.records.wording import abridged, series
from peftbench.report import styles
from peftbench.report.folders import Part, differences
from peftbench.results.watch.night import MACHINE, TIMES, gpu_names, part_of

_MOST_REASONS = 3
_OTHER = "other machine, threads, workers or versions of libraries"


def together(parts: Sequence[Part]) -> dict[str, Any]:
    """Return what the page needs to show the cells of all folders in one plot and one table.

    Returns:
        ``groups``: lists of places of folders whose scores may be read side by side. ``reasons``: for each group why it
        is apart from those before it, in words. ``apart``: by a cost's column, a number for each folder; folders with
        other numbers have no common axis of that cost. ``why``: by the same names, what the numbers stand for.
        ``styles``: colour and shape of each folder.
    """
    found = groups(parts)
    return {
        "groups": found,
        "reasons": [_reason(parts, found[:place], own) for place, own in enumerate(found)],
        "apart": {name: _numbers([key(part) for part in parts]) for name, (key, _) in _COSTS.items()},
        "why": {name: why for name, (_, why) in _COSTS.items()},
        "styles": [asdict(styles.style_at(place)) for place in range(len(parts))],
    }


def groups(parts: Sequence[Part]) -> list[list[int]]:
    """Return the places of the folders in groups within which every two may be read side by side, in their order.

    What older rows do not have is unknown and not different, so that of three folders one may fit to both of two that
    do not fit to each other; it is in the first group of whose folders it fits to all.
    """
    found: list[list[int]] = []
    for place, part in enumerate(parts):
        fitting = (own for own in found if not any(differences(parts[other], part) for other in own))
        group = next(fitting, None)
        if group is None:
            found.append([place])
        else:
            group.append(place)
    return found


def _reason(parts: Sequence[Part], before: Sequence[Sequence[int]], own: Sequence[int]) -> str:
    """Return why a group is apart from those before it; empty for the first."""
    texts = []
    for group in before:
        pairs = ((parts[a], parts[b]) for a in group for b in own)
        first, other = next(pair for pair in pairs if differences(*pair))
        beside = f" ({other.name})" if len(own) > 1 else ""
        texts.append(f"from {first.name}{beside}: {series(differences(first, other))}")
    return f"Kept separate {abridged(texts, _MOST_REASONS)}." if texts else ""


def _machine(part: Part) -> Hashable:
    """Return what times depend on: what two nights must have in common for their times to be compared."""
    every = part.environment.items()
    machine = frozenset((name, values) for name, values in every if any(part_of(name, each) for each in MACHINE))
    return tuple(part.column(name) for name in TIMES), machine


def _gpus(part: Part) -> Hashable:
    return gpu_names(part.results.trials["environment_json"]) if "cuda" in part.column("device") else ""


def _settings(part: Part, kind: str) -> Hashable:
    return frozenset((name, values) for name, values in part.settings.items() if name.partition(".")[0] == kind)


def _decoding(part: Part) -> Hashable:
    return _machine(part), _settings(part, "inference")


def _forgetting(part: Part) -> Hashable:
    length = part.settings.get("evaluation.max_length")
    return part.column("base_sha256"), _settings(part, "retention"), length


_COSTS: dict[str, tuple[Callable[[Part], Hashable], str]] = {
    "train_seconds": (_machine, f"{_OTHER}, so times are not comparable"),
    "decode_over_base": (_decoding, f"{_OTHER}, or other settings of inference, so times are not comparable"),
    "peak_train_bytes": (_gpus, "other GPUs, whose libraries need other memory, so peaks are not comparable"),
    "forgetting": (_forgetting, "other base model or general text, so losses per token are not comparable"),
}
"""Costs that need more in common than scores do: what must be equal, and what it means if it is not."""


def _numbers(keys: Sequence[Hashable]) -> list[int]:
    """Return a number for each key, equal for equal keys, counted from 0 in their order."""
    known = list(dict.fromkeys(keys))
    return [known.index(key) for key in keys]
