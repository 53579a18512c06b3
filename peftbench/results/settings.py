"""The settings of stored rows, as one level of dotted names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one level with dotted names.

    A record in a list is called by its ``name``, which then is not a separate setting unless it is all that the record
    has, or by its position if it has no name. A list without records is a value. An empty mapping has no settings and
    disappears.

    ``{"train": {"steps": 30}, "tasks": [{"name": "judge", "limit": 9}]}`` becomes
    ``{"train.steps": 30, "tasks.judge.limit": 9}``.
    """
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = dict(_by_name(value))
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _by_name(records: list[Any]) -> Iterator[tuple[str, Any]]:
    for place, item in enumerate(records):
        if isinstance(item, Mapping) and "name" in item:
            yield str(item["name"]), {key: value for key, value in item.items() if key != "name" or len(item) == 1}
        else:
            yield str(place), item


def settings_of(row_json: str) -> dict[str, Any]:
    """Return a row's settings, flattened, without the seed.

    Args:
        row_json: ``settings_json`` of the row.
    """
    return {name: value for name, value in flatten(json.loads(row_json)).items() if name.rpartition(".")[2] != "seed"}
