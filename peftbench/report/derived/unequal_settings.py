"""The fairness audit: which settings are not equal in all rows of a table, although they are not an axis of its grid.

Every field is compared that occurs in the rows' settings, in their environment or in ``EffectiveColumns``. No list
names them, so that a field added later is compared too. Only the axes are listed, and what is reported elsewhere.
"""

from __future__ import annotations

import dataclasses
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pandas as pd

from peftbench.methods import profiles
from peftbench.records import Status
from peftbench.records.columns.effective import EffectiveColumns
from peftbench.report.collect import Cell, Results, read_json
from peftbench.report.flat import flat_texts, natural, plain
from peftbench.suite.trial_key import LATER

AXES = ("method", "precision", "rank", "seed", "cell", "devices")
"""Settings in which rows differ on purpose; they are part of the cells' names."""
_OPTIONS = "options."
"""Prefix of the settings that belong to one method."""
_SHARED = ("options.target_modules",)
"""Options of that prefix that mean the same for every method which has them."""
_IN_NAMES = ("options.r", "options.pretrained", "options.peft", "options.dtype")
"""Options that are a column or part of a cell's name."""
APART = ("train.learning_rate", "train.profile")
"""Training settings that each method may have for itself; the page's table of settings shows them."""
_ASIDE = ("command",)
"""Fields of the environment that influence no number."""
_ENGINE = "engine "
"""Fields of another engine, which a row has if it scored one of its forms."""
_INPUTS = {"base_sha256": "base model's content", "data_sha256": "tasks' examples", "workers": "workers"}
"""Columns that should be equal in all trials, and what they are called in notes."""
_WORK = {
    "batches_sha256": "training batches in their order",
    "steps_done": "steps",
    "examples_seen": "examples seen",
    "nonpadding_tokens": "data tokens",
    "loss_tokens": "tokens in the loss",
}
"""Columns that should be equal in all finished trials of a seed, and what they are called in notes."""
_AMOUNT = ("steps", "epochs", "tokens", "batch_size", "sequence_length", "group_by_length")
"""Settings that decide how much work is done. A method whose recipe sets one of them does its own amount."""
_FOLLOWS = ("work", "as computed")
"""Kinds of facts that depend on training settings. They are compared only within one value of such an axis."""
_DECIDED_BY = {
    "optimizer": "optimizer",
    "checkpointing": "gradient_checkpointing",
    "attention": "attention",
    "compiled": "compile",
    "kernel": "kernels",
}
"""First word of an effective setting, and the training setting that decides it."""
Stratum = tuple[Any, ...]
"""Rows of one stratum should have equal values: all rows, those of a seed, or those of a precision and a seed."""


@dataclass(frozen=True)
class AuditRow:
    """One trial with everything about it that is compared."""

    cell: Cell
    seed: Any
    ran: bool
    """Whether it could run. Unsupported trials are not compared, but show which settings are axes."""
    facts: Mapping[tuple[str, str], tuple[Stratum, str]]
    """Kind and name of a field, to its stratum and its value as text."""

    def follows(self, setting: str) -> bool:
        """Whether a training setting has the value of the method's recipe or of the suite's profile."""
        profile = self.facts.get(("training", "train.profile"), ((), None))[1]
        own = self.cell.record.training if self.cell.record else {}
        recipe = profiles.training(profile, self.cell.method, own)
        used = self.facts.get(("training", f"train.{setting}"), ((), ""))[1]
        return setting in recipe and plain(recipe[setting]) == used

    @property
    def alike(self) -> tuple[str, str, Any, str]:
        """Key that is equal for rows which differ in training settings only."""
        options = "".join(f"{n}={v};" for (_, n), (_, v) in self.facts.items() if n.startswith(_OPTIONS))
        return self.cell.kind, self.cell.precision, self.cell.rank, options


@dataclass(frozen=True)
class UnequalField:
    """One field that differs between rows."""

    kind: str
    """What it belongs to: ``training``, ``machine``, ``inputs``, ..."""
    name: str
    values: tuple[tuple[str, tuple[int, ...]], ...]
    """Each value with the places of its rows; the most frequent value last."""


@dataclass(frozen=True)
class Audit:
    """All rows that ran, and the fields that differ between them; fields that differ in the same way form a group."""

    rows: tuple[AuditRow, ...]
    groups: tuple[tuple[UnequalField, ...], ...]


def audit(results: Results) -> Audit:
    """Find the fields that differ between rows and are not an axis of the grid.

    A learning rate belongs to its method, as do the settings that a method's recipe gives. A training setting is an
    axis if every cell has all of its values.
    """
    if "audit" not in results.memo:
        results.memo["audit"] = _audit(results)
    found: Audit = results.memo["audit"]
    return found


def every_row(results: Results) -> tuple[AuditRow, ...]:
    """Return every trial with what is compared of it."""
    if "audited" not in results.memo:
        results.memo["audited"] = tuple(_rows(results))
    found: tuple[AuditRow, ...] = results.memo["audited"]
    return found


def _audit(results: Results) -> Audit:
    every = every_row(results)
    rows = tuple(row for row in every if row.ran)
    axes = _axes(every)
    if results.grid and results.grid.ladder:  # it shows what its cells differ in, row by row
        axes = list(dict.fromkeys([*axes, *(name for row in rows for kind, name in row.facts if kind == "training")]))
    grouped: dict[tuple[str, tuple[tuple[int, ...], ...]], list[UnequalField]] = defaultdict(list)
    for found in _differences(rows, axes, results.imported):
        grouped[found.kind, tuple(places for _, places in found.values)].append(found)
    return Audit(rows, tuple(map(tuple, grouped.values())))


def _rows(results: Results) -> Iterable[AuditRow]:
    """Yield every trial with its comparable fields."""
    parsed = cache(lambda text: flat_texts(read_json(text)))
    for cell in results.cells:
        for row in cell.rows:
            facts: dict[tuple[str, str], tuple[Stratum, str]] = {}
            settings = parsed(row["settings_json"])
            for name, value in settings.items():
                if name.partition(".")[0] not in AXES and not (name == "train" and value == "none"):
                    facts[_kind(name), name] = (), value
            for name, value in parsed(row["environment_json"]).items():
                if name not in _ASIDE:
                    facts[_place(name), name.removeprefix("packages.").replace(".", " ")] = (), value
            if row["status"] == Status.OK.value:
                facts |= _measured(row)
            yield AuditRow(cell, row["seed"], row["status"] != Status.UNSUPPORTED.value, facts)


def _measured(row: Mapping[str, Any]) -> dict[tuple[str, str], tuple[Stratum, str]]:
    """Return the inputs, the amount of work and the effective settings of a finished trial."""
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
    """Return what a setting belongs to."""
    return {"train": "training", "tasks": "tasks", "base": "base", "evaluation": "evaluation"}.get(
        name.partition(".")[0], "options" if name.startswith(_OPTIONS) else "settings"
    )


def _place(name: str) -> str:
    return {"packages": "packages", "git": "source"}.get(name.partition(".")[0], "machine")


def _axes(rows: Sequence[AuditRow]) -> list[str]:
    """Return the training settings that are axes and of which at least one value ran in every cell."""
    trained = [row for row in rows if not row.cell.is_base]
    names = dict.fromkeys(name for row in trained for kind, name in row.facts if kind == "training")
    return [n for n in names if _is_axis((row, _value_of(row, n)) for row in trained) and _shared(trained, n)]


def _shared(rows: Sequence[AuditRow], name: str) -> bool:
    """Whether the rows that ran, grouped by everything but this setting, have a value of it in common."""
    values: dict[Any, set[str]] = defaultdict(set)
    for row in rows:
        if row.ran:
            values[row.alike].add(_value_of(row, name))
    return bool(values) and bool(set.intersection(*values.values()))


def _differences(rows: Sequence[AuditRow], axes: Sequence[str], imported: bool) -> Iterable[UnequalField]:
    """Yield the fields that are not an axis and whose values differ between rows of one stratum.

    Of imported results no axes are known. Options are then compared too, between the rows of a method, and those that
    are not of one method only between all rows that have them.
    """
    keys = dict.fromkeys(key for row in rows for key in row.facts)
    nested = {name[: end.start()] for _, name in keys for end in re.finditer(r"[. ]", name)}
    for kind, name in keys:
        option = name.startswith(_OPTIONS)
        unlike = option and (not imported or name in _IN_NAMES)
        if unlike or name in APART or name in axes or name in nested:  # the parts of what is nested are compared
            continue
        held: dict[Stratum, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        for place, row in enumerate(rows):
            stratum, value = row.facts.get((kind, name), ((), absent(kind, name)))
            if option and name not in _SHARED:
                stratum = (row.cell.method,)
            if kind in _FOLLOWS:
                stratum = (*stratum, *(_value_of(row, axis) for axis in axes))
            if _compared(row, kind, name):
                held[stratum][value].append(place)
        odd = [values for values in held.values() if len(values) > 1]
        values: dict[str, list[int]] = defaultdict(list)
        for value, places in (pair for found in odd for pair in found.items()):
            values[value] += places
        if odd and not (kind == "training" and _is_axis((rows[p], v) for v, found in values.items() for p in found)):
            ordered = sorted(values.items(), key=lambda item: (len(item[1]), natural(item[0])))
            yield UnequalField(kind, name, tuple((value, tuple(places)) for value, places in ordered))


def _value_of(row: AuditRow, setting: str) -> str:
    return row.facts.get(("training", setting), ((), absent("training", setting)))[1]


def absent(kind: str, name: str) -> str:
    """Return what the value of a field is in rows that do not have it."""
    if kind == "training" and name.removeprefix("train.") in LATER:
        return plain(LATER[name.removeprefix("train.")])
    return "none" if kind in ("training", "base", "evaluation", "options") else "not recorded"


def _compared(row: AuditRow, kind: str, name: str) -> bool:
    """Whether a row's value is compared with the others': not if it is unknown or given by the method's recipe."""
    if (kind, name) not in row.facts and (
        row.cell.is_base or name in _SHARED or kind in ("inputs", "work", "as computed") or name.startswith(_ENGINE)
    ):
        return False
    if kind == "work":
        return not any(map(row.follows, _AMOUNT))
    if kind == "as computed":
        return not row.follows(_DECIDED_BY.get(name.partition(" ")[0], ""))
    return kind != "training" or not row.follows(name.removeprefix("train."))


def _is_axis(held: Iterable[tuple[AuditRow, str]]) -> bool:
    """Whether the rows, grouped by everything but this setting, all have the same several values of it."""
    values: dict[Any, set[str]] = defaultdict(set)
    for row, value in held:
        values[row.alike].add(value)
    several = set(map(frozenset, values.values()))
    return len(several) == 1 and len(next(iter(several))) > 1
