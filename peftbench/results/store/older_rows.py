"""What rows of schema version 1 lack: columns, read out of their names and messages, and settings at their default.

Rows written since have these facts as data. This is the only place that parses them from text, by how cells were named
and messages were written when those rows were stored; it must not follow later changes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_BECAUSE = ", because "
"""In the message of a cell that cannot exist, between the cell and the reason."""
_LOG = "; log: "
"""In the message of an error, before its log file."""
_Parser = Callable[[Mapping[str, Any]], str | None]
_LEFT_OUT = json.loads(Path(__file__).with_name("settings_v1.json").read_text(encoding="utf-8"))
"""Settings that rows of schema version 1 leave out at their default: block to setting to default; for the block
``options``, method to setting to default."""
_PARSED = ["cell", "method", "precision", "rank", "learning_rate", "status", "message"]


def complete(trials: pd.DataFrame, searched: bool) -> pd.DataFrame:
    """Return the trials with the columns filled that older rows lack.

    Args:
        trials: rows with every column of ``records.TrialRow``.
        searched: whether they are the candidates of a learning-rate search.
    """
    first = trials["schema_version"] == 1
    trials.loc[first, "settings_json"] = trials.loc[first, "settings_json"].map(cache(_all_settings))
    older = trials["named_settings"].isna()
    _fill(trials, "named_settings", older, _named_settings)
    if searched:
        _fill(trials, "candidate_of", older, _candidate_of)
    lacking = trials["reason"].isna() & trials["message"].notna()
    _fill(trials, "log_file", lacking, _log_file)
    _fill(trials, "reason", lacking, _reason)
    return trials


def _all_settings(text: str) -> str:
    """Return a row's settings as JSON, with those that were left out because they had their default."""
    found = json.loads(text)
    for block in ("base", "train", "evaluation"):
        if found.get(block):
            found[block] = _LEFT_OUT[block] | found[block]
    if "tasks" in found:
        found["tasks"] = [_LEFT_OUT["tasks"] | task for task in found["tasks"]]
    if "options" in found:
        found["options"] = _LEFT_OUT["options"].get(found.get("method"), {}) | found["options"]
    return json.dumps(found, sort_keys=True)


def _fill(trials: pd.DataFrame, column: str, rows: pd.Series, value_of: _Parser) -> None:
    """Set a column in some rows to what a function makes of them."""
    if rows.any():
        trials.loc[rows, column] = [value_of(row) for row in trials.loc[rows, _PARSED].to_dict("records")]


def _named_settings(row: Mapping[str, Any]) -> str:
    dropped = {row["method"], row["precision"], f"r={row['rank']}"}
    return " ".join(word for word in row["cell"].split() if word not in dropped)


def _candidate_of(row: Mapping[str, Any]) -> str:
    """Return the candidate's name without its learning rate, the last one that it states."""
    head, _, tail = row["cell"].rpartition(f"lr={repr(row['learning_rate']).removesuffix('.0')} ")
    return f"{head}{tail}"


def _reason(row: Mapping[str, Any]) -> str:
    message: str = row["message"]
    if row["status"] == "unsupported":
        return message.partition(_BECAUSE)[2] or message
    return message.partition(_LOG)[0]


def _log_file(row: Mapping[str, Any]) -> str | None:
    return row["message"].partition(_LOG)[2] or None
