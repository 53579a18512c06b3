"""What moved beside the numbers between two nights, in the order of how likely it is to matter."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from peftbench.records.watch import Kind
from peftbench.results.seeds import SAME_IN_CELL
from peftbench.results.watch.differences import Difference, changed_environment, changed_seeds, changed_settings
from peftbench.results.watch.findings import Cell
from peftbench.results.watch.night import COMPUTES, Night

if TYPE_CHECKING:
    import pandas as pd

What = Literal["setting", "data", "package", "driver", "code", "seeds", "machine", "other package", "other"]
ORDER: tuple[What, ...] = (
    "setting",
    "data",
    "package",
    "driver",
    "code",
    "seeds",
    "machine",
    "other package",
    "other",
)
"""From the likeliest to matter: what decides the numbers by definition, then what computes them, then the rest."""
_ALL: frozenset[Kind] = frozenset({"status", "memory", "speed", "size", "score", "retention", "inference", "merge"})
MAY_MOVE: dict[What, frozenset[Kind]] = {
    "setting": _ALL,
    "data": frozenset({"score", "retention", "memory", "speed", "status"}),
    "package": _ALL,
    "driver": frozenset({"speed", "inference", "memory", "status"}),
    "code": _ALL,
    "seeds": frozenset({"score", "retention", "memory"}),
    "machine": frozenset({"speed", "inference", "status", "score", "merge"}),
    "other package": frozenset({"score", "status"}),
    "other": frozenset({"speed", "status"}),
}
"""Which kinds of numbers each can move."""
_KINDS_OF: dict[str, frozenset[Kind]] = {
    **dict.fromkeys(("threads", "workers"), frozenset[Kind]({"speed", "inference"})),
    "base_sha256": _ALL,
    "retention_sha256": frozenset({"retention"}),
    "inference_prompts_sha256": frozenset({"inference", "memory", "merge"}),
}
"""The same of single names."""
_COLUMNS = ("device", "threads", "workers", "protocol", "retention_sha256", "inference_prompts_sha256")
"""Columns besides settings and environment that may differ."""


@dataclass(frozen=True)
class Moved:
    """Something that is not the same on both nights, and is no measured number."""

    what: What
    name: str
    old: str
    new: str
    cells: tuple[str, ...]
    """The cells in which it differs; empty if in every cell that both sides have."""
    may_explain: tuple[Kind, ...]
    """The kinds of numbers that changed between these nights and that it can move."""


def moved(old: Night, new: Night, common: list[Cell], changed: Collection[Kind]) -> tuple[Moved, ...]:
    """Return everything that moved, the likeliest to matter first.

    First is what can explain one of the changes; among it and among the rest, what decides the numbers by definition
    (settings, data), then what computes them (packages, driver, code), then the machine and the rest.

    Args:
        old: the old night.
        new: the new one.
        common: the cells that both have.
        changed: kinds of numbers that regressed or improved.
    """
    found = [_moved(each, _of_setting(each.name), changed) for each in changed_settings(old.trials, new.trials, common)]
    found += [_moved(each, "seeds", changed) for each in changed_seeds(old.trials, new.trials, common)]
    named = {each.name for each in found}
    around = [each for each in _environment(old.trials, new.trials) if each.name not in named]
    found += [_moved(each, _of_environment(each.name), changed) for each in around]
    return tuple(sorted(found, key=lambda each: (not each.may_explain, ORDER.index(each.what), _rank(each.name))))


def _environment(old: pd.DataFrame, new: pd.DataFrame) -> list[Difference]:
    found = [*changed_environment(old, new)]
    for name in (name for name in _COLUMNS if name in old and name in new):
        one, other = (", ".join(sorted({str(value) for value in side[name].dropna()})) for side in (old, new))
        if one and other and one != other:
            found.append(Difference(name, one, other, ()))
    return found


def _moved(each: Difference, what: What, changed: Collection[Kind]) -> Moved:
    kinds = _KINDS_OF.get(each.name, MAY_MOVE[what])
    explains = tuple(kind for kind in dict.fromkeys(changed) if kind in kinds)
    return Moved(what, each.name, each.old, each.new, each.cells, explains)


def _of_setting(name: str) -> What:
    return "data" if name in SAME_IN_CELL or name.startswith("tasks.") else "setting"


def _of_environment(name: str) -> What:
    if name.endswith("_sha256"):
        return "data"
    first, _, rest = name.partition(".")
    if first == "packages":
        return "code" if rest == "peftbench" else "package" if rest in COMPUTES else "other package"
    if "driver" in name:
        return "driver"
    if first in ("git", "protocol"):
        return "code"
    return "machine" if first in ("cpu", "cpu_count", "cpus_available", "gpu", "gpus", "device") else "other"


def _rank(name: str) -> tuple[int, str]:
    """Return the place of a name among its kind: packages in the order of ``COMPUTES``, all else by name."""
    package = name.removeprefix("packages.")
    return (COMPUTES.index(package) if package in COMPUTES else len(COMPUTES), name)
