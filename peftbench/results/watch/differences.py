"""What else differs between two sets of rows: settings, data, environment, split and metrics of scores."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftbench.methods import METHODS
from peftbench.results.seeds import SAME_IN_CELL
from peftbench.results.settings import flatten, settings_of
from peftbench.results.watch.findings import Cell

if TYPE_CHECKING:
    import pandas as pd

_SPLIT = "evaluation.split"
"""The setting that says which examples of the data are scored."""


@dataclass(frozen=True)
class Difference:
    """A setting, or a part of the environment, that is not the same on both sides."""

    name: str
    old: str
    new: str
    cells: tuple[str, ...]
    """The cells in which it differs; empty if it differs in every cell that both folders have."""


def other_split(old: pd.DataFrame, new: pd.DataFrame) -> str | None:
    """Return why the scores of a cell's rows are not of the same split; None if they are."""
    splits = [{settings_of(text).get(_SPLIT) for text in side["settings_json"]} - {None} for side in (old, new)]
    if all(splits) and splits[0] != splits[1]:
        return f"{_SPLIT} is {_values(splits[0])} and {_values(splits[1])}"
    return None


def changed_metrics(old: pd.DataFrame, new: pd.DataFrame) -> tuple[Difference, ...]:
    """Return the tasks that both sides of a cell have, but scored with other metrics; the name is the task's."""
    sides = [_metrics(side["scores_json"].dropna()) for side in (old, new)]
    both = [task for task in sides[0] if task in sides[1] and sides[0][task] != sides[1][task]]
    return tuple(Difference(task, _values(sides[0][task]), _values(sides[1][task]), ()) for task in both)


def _metrics(texts: Iterable[str]) -> dict[str, set[str]]:
    """Return the metrics of each task's headline score; unreadable scores have none."""
    found: dict[str, set[str]] = {}
    for text in dict.fromkeys(texts):
        try:
            scores = json.loads(text)
        except ValueError:
            continue
        for task, score in scores.items() if isinstance(scores, dict) else ():
            if isinstance(score, dict) and isinstance(score.get("metric"), str):
                found.setdefault(task, set()).add(score["metric"])
    return found


def changed_settings(old: pd.DataFrame, new: pd.DataFrame, common: list[Cell]) -> tuple[Difference, ...]:
    """Return the settings that differ between cells of the same name, each difference once, with its cells."""
    found: dict[tuple[str, str, str], list[str]] = {}
    sides = [_settings(side) for side in (old, new)]
    for key in common:
        one, other = (side[key] for side in sides)
        for name in sorted(one.keys() | other.keys()):
            was, now = (_shown(name, side) for side in (one, other))
            if was != now:
                found.setdefault((name, was, now), []).append(key[1])
    return tuple(
        Difference(*change, tuple(cells) if len(cells) < len(common) else ()) for change, cells in found.items()
    )


def _shown(name: str, settings: Mapping[str, Any]) -> str:
    """Return a setting's value as text; if the value null stands for another one, what it stands for."""
    if name not in settings:
        return "(absent)"
    method, option = METHODS.get(str(settings.get("method"))), name.removeprefix("options.")
    if settings[name] is None and method is not None and name != option and option in method.options:
        setting = method.options[option]
        if setting.meaning:
            return setting.meaning
    return json.dumps(settings[name])


def _settings(trials: pd.DataFrame) -> dict[Cell, dict[str, Any]]:
    """Return the settings of each cell, and the hashes of its inputs if a row has them."""
    known = trials[["base", "cell", "settings_json", *SAME_IN_CELL]].astype(object)
    found: dict[Cell, dict[str, Any]] = {}
    for base, cell, text, *hashes in known.itertuples(index=False):
        named = {name: value for name, value in zip(SAME_IN_CELL, hashes, strict=True) if isinstance(value, str)}
        found[base, cell] = settings_of(text) | named | found.get((base, cell), {})
    return found


def changed_seeds(old: pd.DataFrame, new: pd.DataFrame, common: list[Cell]) -> tuple[Difference, ...]:
    """Return which seeds cells of the same name have, if they are not the same, each difference once."""
    found: dict[tuple[str, str], list[str]] = {}
    sides = [
        {key: sorted(map(int, seeds.dropna().unique())) for key, seeds in side.groupby(["base", "cell"])["seed"]}
        for side in (old, new)
    ]
    for key in common:
        one, other = (side.get(key, []) for side in sides)
        if one != other:
            found.setdefault((json.dumps(one)[1:-1] or "none", json.dumps(other)[1:-1] or "none"), []).append(key[1])
    return tuple(
        Difference("seeds", *change, tuple(cells) if len(cells) < len(common) else ())
        for change, cells in found.items()
    )


def changed_environment(old: pd.DataFrame, new: pd.DataFrame) -> tuple[Difference, ...]:
    """Return the parts of the environment that differ, with all values that each side has."""
    sides = [_environment(side) for side in (old, new)]
    found = []
    for name in sorted(sides[0].keys() | sides[1].keys()):
        one, other = (side.get(name, "(absent)") for side in sides)
        if one != other:
            found.append(Difference(name, one, other, ()))
    return tuple(found)


def _environment(trials: pd.DataFrame) -> dict[str, str]:
    """Return each part of the rows' environments with all its values, as text."""
    values: dict[str, list[Any]] = {}
    for text in trials["environment_json"].dropna().unique():
        for name, value in flatten(json.loads(text)).items():
            values.setdefault(name, []).append(value)
    return {name: _values(listed) for name, listed in values.items()}


def _values(listed: Iterable[Any]) -> str:
    return ", ".join(sorted({value if isinstance(value, str) else json.dumps(value, default=str) for value in listed}))
