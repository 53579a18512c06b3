"""The fairness audit: what is not the same in all rows of a table and is no axis of it, in words.

Every field is compared that is in the rows' settings, in their environment or in ``EffectiveColumns``: none is listed
here, so that a field added tomorrow is audited. Only what is an axis is named, and what is told elsewhere.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd

from peftbench.methods import profiles
from peftbench.records import Base, Evaluation, Status, Training
from peftbench.records.columns.effective import EffectiveColumns
from peftbench.report import format as fmt
from peftbench.report.collect import Cell, Results, method_title, read_json
from peftbench.report.flat import flat_texts, natural, plain

AXES = ("method", "precision", "rank", "seed", "cell")
"""Settings that the table's rows differ in on purpose; the cells' names say them."""
_OPTIONS = "options."
"""How settings begin that are a method's own: its axis."""
_APART = ("train.learning_rate", "train.profile")
"""Settings that each method may have for itself; the page's table of settings tells them."""
_ASIDE = ("command",)
"""Of the environment, what bears on no number."""
_INPUTS = {"base_sha256": "base model's content", "data_sha256": "tasks' examples", "workers": "workers"}
"""Columns of which every trial should hold the same value, in words."""
_WORK = {
    "batches_sha256": "training batches in their order",
    "steps_done": "steps",
    "examples_seen": "examples seen",
    "nonpadding_tokens": "data tokens",
    "loss_tokens": "loss-bearing tokens",
}
"""Columns of which every finished trial of a seed should hold the same value, in words."""
_AMOUNT = ("steps", "epochs", "tokens", "batch_size", "sequence_length", "group_by_length")
"""Settings that decide which work is done; where a recipe names one, its work is its own."""
LATE = {
    f"{prefix}.{field.name}": plain(field.default)
    for prefix, record in (("train", Training), ("base", Base), ("evaluation", Evaluation))
    for field in dataclasses.fields(record)
    if field.metadata.get("late")
}
"""What an older row had for settings that came later."""
_FOLLOWS = ("work", "as computed")
"""Kinds of facts that follow from training settings: where one of these is an axis, they differ with it."""
_DECIDED_BY = {"optimizer": "optimizer", "checkpointing": "gradient_checkpointing"}
"""How the name of something computed begins, to the training setting that decides it."""
_MOST = 6
"""Names of rows before the others are only counted."""
_LONGEST = 60
"""Characters of a value."""

Stratum = tuple[Any, ...]
"""Rows of one stratum should hold the same value: all rows, or those of a seed, or of a precision and a seed."""


@dataclass(frozen=True)
class _Row:
    """One trial: where it stands, and each field's name by kind with its stratum and value."""

    cell: Cell
    seed: Any
    ran: bool
    """Whether it could run. One that could not has no place in the comparison, but shows what is an axis."""
    facts: Mapping[tuple[str, str], tuple[Stratum, str]]

    def follows(self, setting: str) -> bool:
        """Whether a training setting is as the method's recipe, or the suite's profile, names it."""
        profile = self.facts.get(("training", "train.profile"), ((), None))[1]
        own = self.cell.record.training if self.cell.record else {}
        recipe = profiles.training(profile, self.cell.method, own)
        used = self.facts.get(("training", f"train.{setting}"), ((), ""))[1]
        return setting in recipe and plain(recipe[setting]) == used

    @property
    def alike(self) -> tuple[str, str, Any, str]:
        """What rows share that differ in training settings alone."""
        options = "".join(f"{n}={v};" for (_, n), (_, v) in self.facts.items() if n.startswith(_OPTIONS))
        return self.cell.kind, self.cell.precision, self.cell.rank, options


@dataclass(frozen=True)
class _Difference:
    """One field that differs: its values, each with the rows that hold it, the commonest last."""

    kind: str
    name: str
    values: tuple[tuple[str, tuple[int, ...]], ...]


def findings(results: Results) -> tuple[str, ...]:
    """Return sentences about what differs between rows and is no axis; none where the comparison is fair.

    A learning rate is each method's own, as is what its recipe names. A training setting is an axis where every cell
    has all of its values.
    """
    every = list(_rows(results))
    rows = [row for row in every if row.ran]
    grouped: dict[tuple[str, tuple[tuple[int, ...], ...]], list[_Difference]] = defaultdict(list)
    for found in _differences(rows, _axes(every)):
        grouped[found.kind, tuple(held for _, held in found.values)].append(found)
    told: dict[str, list[str]] = defaultdict(list)
    for (kind, _), alike in grouped.items():
        told[kind].append(_told(alike, rows))
    return tuple(f"Differs, and is no axis ({kind}): {'; '.join(texts)}." for kind, texts in told.items())


def _rows(results: Results) -> Iterable[_Row]:
    """Yield every trial, with what is known of it."""
    parsed = cache(lambda text: flat_texts(read_json(text)))
    needed = ["status", "seed", "precision", "settings_json", "environment_json", *_INPUTS, *_WORK]
    needed += [f.name for f in dataclasses.fields(EffectiveColumns)]
    columns = [name for name in needed if name in results.trials]
    for cell in results.cells:
        for row in cell.trials[columns].to_dict("records"):
            facts: dict[tuple[str, str], tuple[Stratum, str]] = {}
            settings = parsed(row["settings_json"])
            for name, value in settings.items():
                if name not in AXES and not (name == "train" and value == "none"):
                    facts[_kind(name), name] = (), value
            for name, value in parsed(row["environment_json"]).items():
                if name not in _ASIDE:
                    facts[_place(name), name.removeprefix("packages.").replace(".", " ")] = (), value
            if row["status"] == Status.OK.value:
                facts |= _measured(row)
            yield _Row(cell, row["seed"], row["status"] != Status.UNSUPPORTED.value, facts)


def _measured(row: Mapping[str, Any]) -> dict[tuple[str, str], tuple[Stratum, str]]:
    """Return what a finished trial tells of its inputs, its work and what it really computed with."""
    seed = row["seed"]
    trained = not pd.isna(seed)
    wanted: list[tuple[str, str, str, Stratum]] = [("inputs", n, words, ()) for n, words in _INPUTS.items()]
    if trained:
        wanted += [("work", n, words, (f"seed {seed}",)) for n, words in _WORK.items()]
        own = (str(row["precision"]), f"seed {seed}")
        fields = dataclasses.fields(EffectiveColumns)
        wanted += [("as computed", f.name, f.name.replace("_", " "), own) for f in fields]
    return {(kind, words): (own, plain(row[n])) for kind, n, words, own in wanted if not _unknown(row.get(n))}


def _unknown(value: Any) -> bool:
    return bool(value is None or pd.isna(value))


def _kind(name: str) -> str:
    """Return what a setting is about, in words."""
    return {"train": "training", "tasks": "tasks", "base": "base", "evaluation": "evaluation"}.get(
        name.partition(".")[0], "options" if name.startswith(_OPTIONS) else "settings"
    )


def _place(name: str) -> str:
    return {"packages": "packages", "git": "source"}.get(name.partition(".")[0], "machine")


def _axes(rows: Sequence[_Row]) -> list[str]:
    """Return the training settings that are axes, of which one value at least ran wherever any did."""
    trained = [row for row in rows if not row.cell.is_base]
    names = dict.fromkeys(name for row in trained for kind, name in row.facts if kind == "training")
    return [n for n in names if _is_axis((row, _held(row, n)) for row in trained) and _shared(trained, n)]


def _shared(rows: Sequence[_Row], name: str) -> bool:
    """Whether all rows that are alike but for this setting, and ran, have a value of it in common."""
    values: dict[Any, set[str]] = defaultdict(set)
    for row in rows:
        if row.ran:
            values[row.alike].add(_held(row, name))
    return bool(values) and bool(set.intersection(*values.values()))


def _differences(rows: Sequence[_Row], axes: Sequence[str]) -> Iterable[_Difference]:
    """Yield the fields whose values differ between rows of one stratum and are no axis."""
    keys = dict.fromkeys(key for row in rows for key in row.facts)
    nested = {name[: end.start()] for _, name in keys for end in re.finditer(r"[. ]", name)}
    for kind, name in keys:
        if name in _APART or name.startswith(_OPTIONS) or name in nested:  # the parts of what is nested are compared
            continue
        if kind == "training" and name in axes:
            continue
        held: dict[Stratum, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for place, row in enumerate(rows):
            stratum, value = row.facts.get((kind, name), ((), _absent(kind, name)))
            if kind in _FOLLOWS:
                stratum = (*stratum, *(_held(row, axis) for axis in axes))
            if _compared(row, kind, name):
                held[stratum][value].append(place)
        odd = [values for values in held.values() if len(values) > 1]
        values: dict[str, list[int]] = defaultdict(list)
        for value, places in (pair for found in odd for pair in found.items()):
            values[value] += places
        if odd and not (kind == "training" and _is_axis((rows[p], v) for v, found in values.items() for p in found)):
            ordered = sorted(values.items(), key=lambda item: (len(item[1]), natural(item[0])))
            yield _Difference(kind, name, tuple((value, tuple(places)) for value, places in ordered))


def _held(row: _Row, setting: str) -> str:
    return row.facts.get(("training", setting), ((), _absent("training", setting)))[1]


def _absent(kind: str, name: str) -> str:
    return LATE.get(name, "none") if kind in ("training", "base", "evaluation") else "not recorded"


def _compared(row: _Row, kind: str, name: str) -> bool:
    """Whether a row's value is held against the others': not what is unknown, and not what its recipe names."""
    if (kind, name) not in row.facts and (row.cell.is_base or kind in ("inputs", "work", "as computed")):
        return False
    if kind == "work":
        return not any(map(row.follows, _AMOUNT))
    if kind == "as computed":
        return not row.follows(_DECIDED_BY.get(name.partition(" ")[0], ""))
    return kind != "training" or not row.follows(name.removeprefix("train."))


def _is_axis(held: Iterable[tuple[_Row, str]]) -> bool:
    """Whether all rows that are alike but for this setting have the same several values of it."""
    values: dict[Any, set[str]] = defaultdict(set)
    for row, value in held:
        values[row.alike].add(value)
    several = set(map(frozenset, values.values()))
    return len(several) == 1 and len(next(iter(several))) > 1


def _told(alike: Sequence[_Difference], rows: Sequence[_Row]) -> str:
    """Return in words what some fields are in which rows; they differ in the same way."""
    held = [places for _, places in alike[0].values]
    everything = [place for places in held for place in places]
    parts = []
    for index, places in enumerate(held):
        values = ", ".join(f"{_short(found.name)} {_value(found.name, found.values[index][0])}" for found in alike)
        names = _who(places, everything, rows)
        rest = index and places is held[-1] and len(names) > 2
        more = len(names) - _MOST
        shown = names if more <= 1 else [*names[:_MOST], f"and {more} more"]
        parts.append(f"{values} ({'the others' if rest else ', '.join(shown)})")
    return ", ".join(parts)


def _short(name: str) -> str:
    return re.sub(r"^(train|tasks|evaluation|base)\.", "", name)


def _value(name: str, value: str) -> str:
    if re.fullmatch("[0-9a-f]{32,}", value):
        return value[:12]
    if name.endswith("_bytes") and value.isdigit():
        return fmt.memory(int(value))
    return value if len(value) <= _LONGEST else f"{value[: _LONGEST - 3]}..."


def _who(places: Iterable[int], everything: Sequence[int], rows: Sequence[_Row]) -> list[str]:
    """Name rows: methods of which these are all, else cells, else seeds of a cell."""
    left, named = list(places), []
    for kind in dict.fromkeys(rows[place].cell.kind for place in left):
        left, found = _taken(left, everything, lambda place, kind=kind: rows[place].cell.kind == kind)  # type: ignore[misc]
        named += [method_title(kind)] if found else []
    for cell in dict.fromkeys(rows[place].cell.name for place in left):
        left, found = _taken(left, everything, lambda place, cell=cell: rows[place].cell.name == cell)  # type: ignore[misc]
        named += [cell] if found else []
    seeds: dict[str, list[str]] = defaultdict(list)
    for place in left:
        seeds[rows[place].cell.name].append(plain(rows[place].seed))
    return [*named, *(f"{cell} seed {', '.join(own)}" for cell, own in seeds.items())]


def _taken(left: list[int], everything: Sequence[int], of: Callable[[int], bool]) -> tuple[list[int], bool]:
    """Return what is left without the rows of one kind, if all of these were there."""
    whole = {place for place in everything if of(place)}
    return ([place for place in left if place not in whole], True) if whole <= set(left) else (left, False)
