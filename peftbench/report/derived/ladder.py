"""The ladder of memory: each cell, in the order of the suite's file, beside the one above it or the first one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from peftbench.report.collect import Cell, Results, read_json
from peftbench.report.derived.unequal_settings import APART, absent, every_row
from peftbench.report.flat import flat_texts
from peftbench.report.names import display_names
from peftbench.report.not_run import not_run

_SETTINGS = ("training", "options", "settings", "tasks", "base", "evaluation")
_AROUND = ("machine", "packages", "source")
"""Kinds of facts that a row may differ in: what the suite asks for, and what it ran on."""
_WORDS = {"yes": "true", "no": "false", "none": "null"}
"""How a suite writes what the audit's texts say in words."""


@dataclass(frozen=True)
class Change:
    """One setting that differs between two rows of the ladder."""

    name: str
    """As in a suite, without its block."""
    before: str
    after: str

    @property
    def text(self) -> str:
        """Return "optimizer: adamw → adamw_8bit"."""
        return f"{self.name}: {self.before} → {self.after}"

    @property
    def short(self) -> str:
        """Return "optimizer: adamw_8bit"."""
        return f"{self.name}: {self.after}"


@dataclass(frozen=True)
class Rung:
    """One row of the ladder."""

    title: str
    """Display name of its cell; of a first row that finished method, rank and precision alone."""
    cell: Cell | None
    """None if no trial of the cell has a result yet."""
    beside: Cell | None
    """The finished cell that it is compared with; None for the first one."""
    passed: bool
    """Whether the row that it would be compared with did not finish, so that an earlier one stands in."""
    changes: tuple[Change, ...]

    @property
    def label(self) -> str:
        """What it changes, in few words; of a first row its name."""
        return ", ".join(each.short for each in self.changes) or self.title

    def value(self, column: str) -> float | None:
        """Return a column's mean over seeds; None if it is not known."""
        return self.cell.mean(column) if self.cell else None

    def before(self, column: str) -> float | None:
        """Return the same of the cell that it is compared with; None if it is not known, or does not compare."""
        if self.cell is None or self.beside is None:
            return None
        kinds = {*self.cell.texts("memory_kind"), *self.beside.texts("memory_kind")}
        comparable = not column.startswith("peak_") or len(kinds) <= 1
        return self.beside.mean(column) if comparable else None

    def change(self, column: str) -> float | None:
        """Return how much larger a column is than in the cell that it is compared with; None if it is not known."""
        now, before = self.value(column), self.before(column)
        return None if now is None or before is None else now - before


def inside(rung: Rung) -> bool:
    """Whether operators had workspaces of more than a hundredth of the peak, which no category has."""
    held, peak = rung.value("peak_unexplained_bytes"), rung.value("peak_train_bytes")
    return held is not None and peak is not None and held > peak / 100


def ladder(results: Results) -> tuple[Rung, ...]:
    """Return the rows of the ladder; none if the suite asks for no ladder.

    A cell that did not finish is a row without numbers, and no other row is compared with it. Cells are compared on the
    same base model only.
    """
    if "ladder" not in results.memo:
        results.memo["ladder"] = tuple(_rungs(results))
    found: tuple[Rung, ...] = results.memo["ladder"]
    return found


def _rungs(results: Results) -> Iterator[Rung]:
    kind = results.grid.ladder if results.grid else None
    if kind is None:
        return
    names, facts = display_names(results.cells), _facts(results)
    held: dict[str, Cell] = {}
    failed: set[str] = set()
    for base, name, found in _in_order(results):
        if isinstance(found, str):
            yield Rung(found, None, held.get(base), False, ())
            failed.add(base)
            continue
        beside = held.get(base)
        changes = tuple(_changes(beside, found, facts)) if beside else ()
        passed = kind == "previous" and base in failed and beside is not None
        first = beside is None and base not in failed and len(found.ok)
        title = f"{_with_rank(found.title, found)} {found.precision}" if first else names[name]
        yield Rung(title, found, beside, passed, changes)
        if not len(found.ok):
            failed.add(base)
        elif kind == "previous" or beside is None:
            held[base] = found
            failed.discard(base)


def _in_order(results: Results) -> Iterator[tuple[str, str, Cell | str]]:
    """Yield base, name and cell of the trained cells in the order of the grid; the title of one that is not run."""
    assert results.grid is not None
    cells = {(cell.summary.base, cell.summary.cell): cell for cell in results.cells}
    trials = results.trials
    pairs = zip(trials["base"].astype(str), trials["cell"].astype(str), strict=True)
    of_key = dict(zip(trials["key"], pairs, strict=True))
    missing = {(each.base, each.cell): each for each in not_run(results).values()}
    here = ", ".join(dict.fromkeys(cell.summary.base for cell in results.cells))
    seen = set()
    for key in results.grid.keys:
        pair = of_key.get(key) or (results.grid.bases.get(key, here), results.grid.cells.get(key, ""))
        if pair in seen:
            continue
        seen.add(pair)
        if pair in cells and not cells[pair].is_base:
            yield pair[0], cells[pair].name, cells[pair]
        elif pair in missing and not missing[pair].is_base:
            yield pair[0], missing[pair].name, missing[pair].title


def _facts(results: Results) -> Mapping[str, Mapping[tuple[str, str], str]]:
    """Return what each cell's first trial is compared by: kind and name of a field to its value."""
    found: dict[str, Mapping[tuple[str, str], str]] = {}
    for row in every_row(results):
        kinds = {key: value for key, (_, value) in row.facts.items() if key[0] in (*_SETTINGS, *_AROUND)}
        found.setdefault(row.cell.name, kinds | _devices(row.cell))
    return found


def _devices(cell: Cell) -> dict[tuple[str, str], str]:
    """Return the settings of several devices, which the audit takes for an axis."""
    devices = read_json(cell.rows[0]["settings_json"]).get("devices") or {}
    return {("settings", f"devices.{name}"): value for name, value in flat_texts(devices).items()}


def _changes(before: Cell, after: Cell, facts: Mapping[str, Mapping[tuple[str, str], str]]) -> Iterator[Change]:
    """Yield what differs between two cells: method, rank and precision, then settings, then what they ran on.

    Of another method the options and the learning rate are its own: only options that the cell's name has are told,
    with the method.
    """
    other = before.kind != after.kind
    if other:
        yield Change("method", *(f"{_with_rank(each.kind, each)}{_options(each)}" for each in (before, after)))
    elif before.rank != after.rank:
        yield Change("rank", str(before.rank), str(after.rank))
    if before.precision != after.precision:
        yield Change("precision", before.precision, after.precision)
    old, new = facts[before.name], facts[after.name]
    for kind, name in dict.fromkeys((*old, *new)):
        own = other and (kind == "options" or name in APART)
        values = [each.get((kind, name), absent(kind, name)) for each in (old, new)]
        if not own and values[0] != values[1]:
            shown = name.partition(".")[2] if kind in ("training", "options") else name
            yield Change(shown, *(_WORDS.get(text, text) for text in values))


def _options(cell: Cell) -> str:
    """Return the options that a cell's name has, each after a blank."""
    known = cell.record.options if cell.record else {}
    named = re.findall(r"(\w+)=(.*?)(?= \w+=|$)", cell.variant)
    return "".join(f" {name}={value}" for name, value in named if name in known)


def _with_rank(name: str, cell: Cell) -> str:
    return name if cell.rank is None else f"{name} r={cell.rank}"
