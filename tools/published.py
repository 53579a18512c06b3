"""The registry of published tables from the shared file: ``python -m tools.published SHARED.yaml [--check]``.

Writes ``peftbench/report/published/tables/ID.yaml`` for each table of ``tools/published_protocols.py``. Every number is
copied from the shared file: from a table's rows, from a set of hyperparameters, or out of the text of a field.
``--check`` writes nothing and exits with 1 if a file would change.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tools.published_protocols import LEFT_OUT, TAKEN, At, Block, Is, Product, Source, Words

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "peftbench" / "report" / "published" / "tables"
HEAD = "# Made by `python -m tools.published` from the shared file of published tables; do not edit.\n"
WORDS_FOR_NUMBERS = {"one": 1, "two": 2, "three": 3}
SETTINGS = {
    "r": "rank",
    "lr": "learning_rate",
    "epochs": "epochs",
    "max_seq": "sequence_length",
    "micro_batch": "micro_batch_size",
    "precision": "precision",
    "target_modules": "target_modules",
    "gpus": "gpus",
    "machine": "hardware",
    "seed": "seed",
}
"""Fields of a row that are settings, and their names here."""
ABOUT = ("state", "experiment", "setup", "by", "setting", "config", "machine", "memory_is_per_gpu", "note", "run")
"""Fields of a row that say which of several it is, in the order in which they are joined."""
ROW = ("model", "method", "label", "trainable_params", "values", "std", "from_prior_work", "from_memory", "status")
GROUPS = ("dataset", "state", "setup")
"""Fields of a row that say which part of the table it is of."""
BASES_ARE_COLUMNS = ("qlora2023_t4_mmlu",)
"""Tables whose field for the base model names a range of them."""
RENAMED = {("qlora2023_t3_16bit_parity", "QLoRA Int8"): "qlora_int8"}
"""Table and label of a row to its method, where the table's name is elsewhere that of another method."""
IGNORED = ("read", "versions", "dataset")
HANDS = (
    ("from memory", "memory"),
    ("secondary", "secondary"),
    ("issue", "secondary"),
    ("per row", "secondary"),
    ("conversion", "conversion"),
)
"""Words in how a table was read, and what that makes it; the first that occurs. Anything else is the authors' own."""


def main() -> int:
    """Write the registry, or check that it is up to date."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shared", type=Path)
    parser.add_argument("--check", action="store_true")
    given = parser.parse_args()
    made = registry(given.shared)
    stale = [name for name, text in made.items() if not _is(TABLES / name, text)]
    stale += [path.name for path in TABLES.glob("*.yaml") if path.name not in made]
    if given.check:
        print("\n".join(stale) or "up to date")
        return int(bool(stale))
    TABLES.mkdir(exist_ok=True)
    for path in TABLES.glob("*.yaml"):
        path.unlink()
    for name, text in made.items():
        (TABLES / name).write_text(text, encoding="utf-8")
    return 0


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


def registry(shared: Path) -> dict[str, str]:
    """Return the text of each file of the registry by its name.

    Raises:
        KeyError: if a table or a field that is taken is not in the shared file.
        ValueError: if a table is neither taken nor left out with a reason, or a pattern finds nothing.
    """
    content = yaml.safe_load(shared.read_text(encoding="utf-8"))
    tables = {table["id"]: table for table in content["tables"]}
    undecided = set(tables) ^ {*TAKEN, *LEFT_OUT}
    if undecided:
        raise ValueError(f"neither taken nor left out, or not in the shared file: {sorted(undecided)}")
    recipes = {one["id"]: one for one in content["hyperparameters"]}
    return {
        f"{name}.yaml": HEAD + yaml.dump(_table(tables[name], blocks, recipes), Dumper=Compact, **_LAYOUT)
        for name, blocks in TAKEN.items()
    }


def _table(table: Mapping[str, Any], blocks: tuple[Block, ...], recipes: Mapping[str, Any]) -> dict[str, Any]:
    made = {name: table[name] for name in ("id", "source", "url", "table", "kind")}
    made["table"] = made["table"].partition("; raw files")[0]  # where they are on the machine that they were read on
    made |= {"read": table["read"], "hand": hand(table["read"]), "columns": table["columns"]}
    made |= {name: table[name] for name in ("statistic", "dataset", "train_data", "hardware", "unit") if name in table}
    if "average_column" in table:
        made["average"] = {"column": table["average_column"], "over": table["average_over"]}
    made["traps"] = table.get("traps", [])
    made["protocol"] = [
        {"of": dict(block.of), "settings": {part: _value(s, table, recipes) for part, s in block.settings.items()}}
        for block in blocks
    ]
    made["rows"] = [_row(row, table) for row in table["rows"]]
    return made


def hand(read: str) -> str:
    """Return through whose hands a text went: ``primary``, ``conversion``, ``secondary`` or ``memory``."""
    return next((kind for word, kind in HANDS if word in read.lower()), "primary")


def _row(row: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Any]:
    unknown = set(row) - {*SETTINGS, *ABOUT, *ROW, *IGNORED}
    if unknown:
        raise ValueError(f"{table['id']}: fields of a row without a place here: {sorted(unknown)}")
    whole = None if table["id"] in BASES_ARE_COLUMNS else table.get("base_model")
    method = RENAMED.get((table["id"], row.get("label", "")), row["method"])
    made: dict[str, Any] = {"base": row.get("model") or whole, "method": method}
    made |= {"label": row["label"]} if "label" in row else {}
    about = [str(row[name]) if name != "memory_is_per_gpu" else "memory per GPU" for name in ABOUT if row.get(name)]
    made |= {"about": "; ".join(about)} if about else {}
    made |= {"group": next(filter(None, map(row.get, GROUPS)))} if any(map(row.get, GROUPS)) else {}
    made |= {"parameters": row["trainable_params"]} if "trainable_params" in row else {}
    made |= {"hand": hand(row["read"])} if "read" in row else {}
    made |= {name: True for name in ("from_prior_work", "from_memory") if row.get(name)}
    made |= {"status": row["status"]} if row.get("status", "ok") != "ok" else {}
    settings = {name: row[key] for key, name in SETTINGS.items() if row.get(key) is not None}
    made |= {"settings": settings} if settings else {}
    made["values"] = {name: value for name, value in row["values"].items() if value is not None}
    made |= {"spread": row["std"]} if "std" in row else {}
    return made


def _value(source: Source, table: Mapping[str, Any], recipes: Mapping[str, Any]) -> Any:
    """Return what a part of a protocol is, from the place that is named."""
    if isinstance(source, Words):
        return source.text
    if isinstance(source, Is):
        return source.on
    if isinstance(source, At):
        return _at(source.path, table, recipes)
    if isinstance(source, Product):
        one, other = (_at(path, table, recipes) for path in (source.one, source.other))
        return one * other
    text = str(_at(source.path, table, recipes))
    found = re.search(source.pattern, text)
    if found is None:
        raise ValueError(f"{table['id']}: {source.path} has nothing like {source.pattern!r}: {text}")
    number = WORDS_FOR_NUMBERS.get(found[1]) or float(found[1])
    number *= source.times
    return int(number) if number == int(number) else number


def _at(path: str, table: Mapping[str, Any], recipes: Mapping[str, Any]) -> Any:
    """Return what is at a path, ``protocol/beam`` of a table or ``#ID/common/r`` of a set of hyperparameters."""
    place: Any = recipes if path.startswith("#") else table
    for name in path.lstrip("#").split("/"):
        place = "\n".join(map(str, place)) if name == "*" else place[name]
    return place


class Compact(yaml.SafeDumper):
    """Writes rows and blocks of a protocol on one line each, everything else on lines of its own."""

    def represent_mapping(self, tag: str, mapping: Any, flow_style: bool | None = None) -> yaml.MappingNode:
        """Return a mapping; those of one line are the rows and what is in them."""
        on_one_line = not isinstance(mapping, dict) or not {"rows", "id"} <= mapping.keys()
        return super().represent_mapping(tag, mapping, flow_style=on_one_line)

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        """Return a list; lists of words and numbers stand on one line."""
        short = all(isinstance(one, str | int | float) for one in sequence) and sum(map(len, map(str, sequence))) < 200
        return super().represent_sequence(tag, sequence, flow_style=short)

    def ignore_aliases(self, data: Any) -> bool:
        """Return that nothing is written as a reference to something before it."""
        return True


Compact.add_representer(dict, lambda dumper, data: dumper.represent_mapping("tag:yaml.org,2002:map", data))
Compact.add_representer(list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data))
_LAYOUT: dict[str, Any] = {"sort_keys": False, "width": 400, "allow_unicode": True}


if __name__ == "__main__":
    sys.exit(main())
