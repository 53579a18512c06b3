"""Several results folders in one report: each with its own answer, and what may be compared between them."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from peftbench.errors import UserError
from peftbench.records.wording import abridged, plural, series
from peftbench.report.collect import Results, collect, read_json
from peftbench.report.flat import plain
from peftbench.results.settings import flatten

_AXES = ("method", "rank", "precision", "seed", "options", "named_settings")
"""Settings that say which cells a folder has."""
_NAMING = ("method", "rank", "precision", "seed")
"""Those of them that are in the name of every cell, or are not the cell's."""
_SCORING = ("evaluate", "evaluation", "tasks")
"""Settings that say on what and how scores are measured."""
_MAX_LENGTH = "evaluation.max_length"
"""The setting among them that changes no score unless prompts are cut to it or texts are scored in windows."""
_COLUMNS: Mapping[str, str] = {
    "base_sha256": "base model",
    "data_sha256": "data",
    "protocol": "protocol",
    "device": "device",
    "memory_kind": "memory figure",
}
"""Columns that say what was measured with what; all but the base model must be equal for folders to be compared."""
_MOST_PAIRS = 6
_LONGEST = 80
"""Longest value of a setting, characters."""
_HASH = 12
"""Characters of a hash that are shown."""


@dataclass(frozen=True)
class Part:
    """One results folder of a report."""

    name: str
    """How the report calls it: the shortest end of its path that no other folder of the report has."""
    folder: Path
    results: Results

    @cached_property
    def settings(self) -> Mapping[str, frozenset[str]]:
        """The values of each setting over all rows, as texts, by its dotted name; the axes of the grid left out."""
        found: dict[str, set[str]] = {}
        for text in self.results.trials["settings_json"].dropna().unique():
            for name, value in flatten(read_json(text)).items():
                if name.partition(".")[0] not in _AXES:
                    found.setdefault(name, set()).add(_short(plain(value)))
        return {name: frozenset(values) for name, values in found.items()}

    @cached_property
    def by_cell(self) -> Mapping[str, Mapping[str, frozenset[str]]]:
        """The values of each setting of each cell, as texts, by the cell's name; options of its method too."""
        found: dict[str, dict[str, set[str]]] = {}
        rows = self.results.trials[["cell", "settings_json"]].dropna().drop_duplicates()
        for cell, text in zip(rows["cell"], rows["settings_json"], strict=True):
            for name, value in flatten(read_json(text)).items():
                if name.partition(".")[0] not in _NAMING:
                    found.setdefault(str(cell), {}).setdefault(name, set()).add(_short(plain(value)))
        return {cell: {name: frozenset(each) for name, each in own.items()} for cell, own in found.items()}

    @cached_property
    def environment(self) -> Mapping[str, frozenset[str]]:
        """The values of each field of the environment over all rows, as texts; the command left out."""
        found: dict[str, set[str]] = {}
        for text in self.results.trials["environment_json"].dropna().unique():
            for name, value in flatten(read_json(text)).items():
                if name != "command":
                    found.setdefault(name, set()).add(_short(plain(value)))
        return {name: frozenset(values) for name, values in found.items()}

    @cached_property
    def fits_length(self) -> bool:
        """Whether every scored text is known to have stood whole within the evaluation's maximum length."""
        texts = self.results.trials["scores_json"].dropna().unique()
        records = [record for text in texts for record in read_json(text).values() if isinstance(record, dict)]
        return bool(records) and all(
            record.get("truncated_prompts") == 0 and record.get("metric") != "probability_per_byte"
            for record in records
        )

    def column(self, name: str) -> frozenset[str]:
        """Return the values of a column over all rows, as texts."""
        return frozenset(str(value) for value in self.results.distinct(name))


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def read(folders: Sequence[Path]) -> tuple[Part, ...]:
    """Return several results folders as the parts of a report, in the order given.

    Raises:
        UserError: if a folder is given twice, does not exist, or its rows do not compare; the message names it.
    """
    seen: dict[Path, Path] = {}
    for folder in folders:
        same = seen.setdefault(folder.resolve(), folder)
        if same is not folder:
            also = "" if str(same) == str(folder) else f" (the same folder as {same})"
            raise UserError(f"{folder}: given twice{also}; allowed: each results folder once")
    names = shortest_names(list(seen))
    return tuple(Part(name, folder, collect(folder)) for name, folder in zip(names, folders, strict=True))


def shortest_names(paths: Sequence[Path]) -> list[str]:
    """Return the shortest end of each path that tells it from the others, which must be different."""
    for length in itertools.count(1):
        found = ["/".join(path.parts[-length:]) for path in paths]
        if len(set(found)) == len(found):
            return found
    raise AssertionError("paths are different")


def comparability(parts: Sequence[Part]) -> tuple[str, ...]:
    """Return sentences that say which folders may be read side by side, and why others may not.

    Rows of different folders are never pooled, and no answer or probability is of more than one folder.
    """
    pairs = list(itertools.combinations(parts, 2))
    alike = [(a, b) for a, b in pairs if not differences(a, b)]
    texts = ["Each folder has an answer, a plot and a table of its own; rows of different folders are never pooled."]
    for a, b in alike[:_MOST_PAIRS]:
        other = a.column("base_sha256") != b.column("base_sha256")
        texts.append(
            f"{a.name} and {b.name} have the same data, evaluation, device and protocol, so that their scores can be "
            f"read side by side{'; their base models differ' if other else ''}."
        )
    apart = [(a, b) for a, b in pairs if (a, b) not in alike]
    texts += [f"{a.name} and {b.name} are not compared: {series(differences(a, b))}." for a, b in apart[:_MOST_PAIRS]]
    left = len(alike[_MOST_PAIRS:]) + len(apart[_MOST_PAIRS:])
    if left:
        texts.append(f"{plural(left, 'more pair')} of folders: the table of what differs tells.")
    return tuple(texts)


def differences(one: Part, other: Part) -> tuple[str, ...]:
    """Return in words why scores of two folders are not compared; empty if they may be read side by side.

    What one table of one folder may not mix is apart here too; it may have several base models.
    """
    unequal = [name for name in _COLUMNS if name != "base_sha256" and one.column(name) != other.column(name)]
    found = [f"other {_COLUMNS[name]}" for name in unequal if name != "data_sha256"]
    names = [name for name in _differing((one, other)) if name.partition(".")[0] in _SCORING]
    if one.fits_length and other.fits_length:
        names = [name for name in names if name != _MAX_LENGTH]
    if set(one.results.tasks) != set(other.results.tasks):
        each = (
            f"{series(part.results.tasks) if part.results.tasks else 'none'} in {part.name}" for part in (one, other)
        )
        return (*found, f"other tasks ({', '.join(each)})")
    if names:
        found.append(f"other data or evaluation ({abridged(names, 3)})")
    elif "data_sha256" in unequal:
        found.append("other data")
    return tuple(found)


def _differing(parts: Sequence[Part]) -> list[str]:
    """Return the settings whose values are not the same in all folders; one that older rows do not have is unknown."""
    every = dict.fromkeys(name for part in parts for name in part.settings)
    return [name for name in every if len({part.settings[name] for part in parts if name in part.settings}) > 1]


def audit(parts: Sequence[Part]) -> dict[str, Any]:
    """Return what differs between the folders: a heading per folder, and a row per field with a text per folder.

    Of a setting with several values within a folder, as the learning rate of each method, the values of the same cells
    are compared; if the folders have no cell in common, all values.
    """
    rows = [(what, [_text(_shown(part, name)) for part in parts]) for name, what in _columns(parts)]
    if len({part.results.tasks for part in parts}) > 1 and "evaluate" not in _differing(parts):
        rows.append(("scored tasks", [", ".join(part.results.tasks) or "–" for part in parts]))
    unequal, cells, common = _differing(parts), _in_cells(parts), _common(parts)
    for name in dict.fromkeys([*unequal, *cells]):
        values = [part.settings.get(name, frozenset()) for part in parts]
        one_each = all(len(each) < 2 for each in values)
        if name in unequal and (name.partition(".")[0] in _SCORING or one_each or not common):
            rows.append((name, [_text(each) for each in values]))
        elif name in cells:
            rows.append((name, [_of_cells(part, name, cells[name]) for part in parts]))
    every = dict.fromkeys(name for part in parts for name in part.environment)
    for name in every:
        values = [part.environment.get(name, frozenset()) for part in parts]
        if len(set(values)) > 1:
            rows.append((f"environment: {name}", [_text(each) for each in values]))
    return {"names": [part.name for part in parts], "rows": rows}


def _common(parts: Sequence[Part]) -> list[str]:
    """Return the cells that at least two folders have."""
    every = Counter(cell for part in parts for cell in part.by_cell)
    return [cell for cell, count in every.items() if count > 1]


def _in_cells(parts: Sequence[Part]) -> dict[str, list[str]]:
    """Return the settings that differ between the same cells of different folders, with these cells."""
    found: dict[str, list[str]] = {}
    for cell in _common(parts):
        own = [part.by_cell[cell] for part in parts if cell in part.by_cell]
        for name in dict.fromkeys(name for each in own for name in each):
            if len({each[name] for each in own if name in each}) > 1:
                found.setdefault(name, []).append(cell)
    return found


def _of_cells(part: Part, name: str, cells: Sequence[str]) -> str:
    """Return a setting's values in some cells: "0.001 (lora r=8 fp32)"."""
    by_value: dict[str, list[str]] = {}
    for cell in cells:
        if cell in part.by_cell:
            by_value.setdefault(_text(part.by_cell[cell].get(name, frozenset())), []).append(cell)
    return abridged([f"{value} ({abridged(own, 3)})" for value, own in by_value.items()], 3) if by_value else "–"


def _columns(parts: Sequence[Part]) -> Iterator[tuple[str, str]]:
    for name, what in {**_COLUMNS, "threads": "threads", "schema_version": "schema of the rows"}.items():
        if len({part.column(name) for part in parts}) > 1:
            yield name, what


def _shown(part: Part, column: str) -> frozenset[str]:
    """Return the values of a column as a reader sees them: of a hash its beginning."""
    values = part.column(column)
    return frozenset(value[:_HASH] for value in values) if column.endswith("sha256") else values


def _text(values: frozenset[str]) -> str:
    return abridged(sorted(values), 3) if values else "–"
