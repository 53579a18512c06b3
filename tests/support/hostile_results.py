"""A results folder of a stranger who wants its reader's machine: every text in it is an attack. No torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_type_hints

import pyarrow.parquet as pq

from peftbench.records import TrialRow
from peftbench.results.store import compact
from peftbench.results.store.schema import schema, table
from tests.support.results_factory import make_result, store

HTML = "\"'></script><script>window.hacked=1</script><img src=http://evil.test/x onerror=window.hacked=1>"
LINK = "javascript:window.hacked=1"
MARKDOWN = "[a](javascript:window.hacked=1) ![b](http://evil.test/x.png) <b>"
FORMULA = '=HYPERLINK("http://evil.test","a")'
TEX = r"\input{/etc/passwd}\immediate\write18{touch /tmp/hacked}^^5cinput $\def\a{\a\a}\a$ % }"
TERMINAL = "\x1b]0;hacked\x07\x1b[2J\x9b31m\u202e"
PATH = "../../../tmp/hacked"
ATTACKS = (HTML, LINK, MARKDOWN, FORMULA, "+1+1", "-1+cmd|' /C calc'!A0", "@SUM(1)", "\t=1+1", TEX, TERMINAL, PATH)
ALL = " ".join((FORMULA, HTML, LINK, MARKDOWN, TEX, TERMINAL, PATH))
"""One text with most attacks, which begins as a formula."""
_KEPT = ("status", "started_at", "finished_at", "device")
_TEXTS = [name for name, hint in get_type_hints(TrialRow).items() if hint in (str, str | None)]


def make(folder: Path, text: str = ALL, kept: tuple[str, ...] = _KEPT, suffix: str = "") -> Path:
    """Write the folder: a few cells and seeds with scores, one failed.

    Args:
        folder: where.
        text: what stands in every text column, key of JSON and text of an example.
        kept: columns that keep their own values.
        suffix: of the names of cells, so that another folder has other ones.
    """
    made = [make_result(f"lora r={rank} fp32", rank=rank, seed=seed) for rank in (4, 8) for seed in (0, 1)]
    made.append(make_result("full fp32", "full", "fp32", None, status="error"))
    store(folder, *made)
    compact(folder)
    (trials,) = (folder / "trials").glob("*.parquet")
    rows = [_hostile(row, text, kept, suffix) for row in pq.read_table(trials).to_pylist()]
    _write(trials, "trials", [{_task(name, text): value for name, value in row.items()} for row in rows], text)
    keys = dict(zip((result.row.key for result in made), (row["key"] for row in rows), strict=False))
    for kind in ("steps", "examples"):
        for path in (folder / kind).glob("*.parquet"):
            found = pq.read_table(path).to_pylist()
            for row in found:
                row["key"] = keys.get(row["key"], row["key"])
                if kind == "examples":
                    row |= {"task": text, "prompt": text, "target": text, "prediction": text}
            _write(path, kind, found, text)
    (folder / "grid.json").write_text(
        json.dumps(
            {
                "keys": [*keys.values(), text, PATH],
                "command": f"peftbench run {text}; touch /tmp/hacked",
                "cells": dict.fromkeys(keys.values(), text + suffix),
                "bases": dict.fromkeys(keys.values(), text),
                "axes": {text: {"method": text, "precision": text, "rank": 3}},
            }
        )
    )
    return folder


def _task(name: str, text: str) -> str:
    """Return a score column's name with the attack in place of its task's."""
    return name.replace("judge", text) if name.startswith(("score_", "chance_", "majority_")) else name


def _hostile(row: dict[str, Any], text: str, kept: tuple[str, ...], suffix: str) -> dict[str, Any]:
    found = dict(row)
    for name in _TEXTS:
        if name in kept or found.get(name) is None:
            continue
        if name.endswith("_json"):
            found[name] = json.dumps(_poisoned(json.loads(found[name]), text))
        elif name == "key":
            found[name] = f"{text}{found[name]}"
        elif name in ("cell", "named_settings"):
            found[name] = f"{text}{found[name]}{suffix}"
        else:
            found[name] = text
    found["message"] = text if found["status"] != "ok" else None
    found["log_file"] = PATH if found["status"] != "ok" else None
    return found


def _poisoned(value: Any, text: str) -> Any:
    """Return JSON with the attack in every text, and as a further key of every mapping."""
    if isinstance(value, dict):
        made = {text if key == "judge" else key: _poisoned(each, text) for key, each in value.items()}
        return made | {text: text}
    if isinstance(value, list):
        return [_poisoned(each, text) for each in value]
    return text if isinstance(value, str) else value


def _write(path: Path, kind: str, rows: list[dict[str, Any]], text: str) -> None:
    made = table(kind, rows, (text,)) if kind == "trials" else table(kind, rows)
    pq.write_table(made.cast(schema(kind, (text,) if kind == "trials" else ())), path)
