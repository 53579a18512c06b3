"""What the peer's dashboard states, recomputed from its result files: what holds, and which gaps are noise.

``python -m tools.validation.peer_statements`` reads the files (in ``PEFTBENCH_SHARED_DATA``) and writes
``results/reference/peer.json``, from which ``python -m tools.docs.reference`` renews ``docs/peer.md``.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench.records import Result
from peftbench.results.imported import hf_method_comparison, hf_rows
from peftbench.results.unpaired import Sampled, against_best, half_width, p_of_difference
from tools.validation import crossed_simulation

PATH = crossed_simulation.PATH.with_name("peer.json")
LILY, RSLORA, LORA, LORA_FA, FULL = (
    "lily rank140-mlp-a2-b2-s8.0",
    "lora rank64-rslora",
    "lora rank32",
    "lora rank32-lorafa",
    "full-finetuning lr_0.00001",
)
TOP = 30
"""Experiments at the top of the table, whose gaps are looked at."""


def folder() -> Path | None:
    """Return where the peer's files are; None if they are not on this machine."""
    place = Path(os.environ.get("PEFTBENCH_SHARED_DATA", "/nowhere")) / "hf_method_comparison"
    return place if place.is_dir() else None


def record(place: Path) -> dict[str, Any]:
    """Return the statements and the noise, computed from the files."""
    june, july = (_cells(place / name) for name in ("june_2026", "july_2026"))
    return {
        "questions": hf_rows.QUESTIONS,
        "best": [_gap(state, cells, LILY, RSLORA) for state, cells in (("June", june), ("July", july))],
        "memory": [_memory(state, cells) for state, cells in (("June", june), ("July", july))],
        "time": _time(july),
        "months": _months(june, july),
        "reruns": _reruns(hf_method_comparison.read([place / "history.csv"])),
        "table": _table(_cells(place / "all_results.csv")),
    }


def _cells(path: Path) -> dict[str, Result]:
    (night,) = hf_method_comparison.read([path])
    return {result.row.cell: result for result in night.results}


def _score(result: Result) -> Sampled:
    (score,) = result.scores
    return Sampled(score.value, score.standard_error or 0.0)


def _points(value: float) -> float:
    return round(100 * value, 4)


def _gap(state: str, cells: Mapping[str, Result], one: str, other: str) -> dict[str, Any]:
    first, second = _score(cells[one]), _score(cells[other])
    return {
        "state": state,
        "first": _points(first.score),
        "second": _points(second.score),
        "gap": _points(first.score - second.score),
        "half_width": _points(half_width(first, second)),
        "p": round(p_of_difference(first, second), 4),
    }


def _memory(state: str, cells: Mapping[str, Result]) -> dict[str, Any]:
    saver, plain = (cells[name].row.peak_run_reserved_bytes or 0 for name in (LORA_FA, LORA))
    return {"state": state, "lora_fa": saver / 1e9, "lora": plain / 1e9, "saved_percent": 100 * (1 - saver / plain)}


def _time(cells: Mapping[str, Result]) -> dict[str, float]:
    """Return how much longer full fine-tuning takes than LoRA: by the time that is shown, and by the steps alone."""
    full, lora = (cells[name].row for name in (FULL, LORA))
    steps = (full.train_seconds or 0) / (lora.train_seconds or 1)
    shown = ((full.train_seconds or 0) + (full.not_training_seconds or 0)) / (
        (lora.train_seconds or 0) + (lora.not_training_seconds or 0)
    )
    rows = [each.row for each in cells.values()]
    shares = [
        row.not_training_seconds / (row.train_seconds + row.not_training_seconds)
        for row in rows
        if row.train_seconds and row.not_training_seconds
    ]
    return {"shown": shown, "steps": steps, "rest_percent": 100 * statistics.median(shares)}


def _months(june: Mapping[str, Result], july: Mapping[str, Result]) -> dict[str, Any]:
    """Return how the experiments with the same settings in both months differ, in points of score and in loss."""
    both = [name for name in june if name in july and _settings(june[name], july[name])]
    scores = [_points(_score(july[name]).score - _score(june[name]).score) for name in both]
    losses = [abs((july[name].row.last_loss or 0) - (june[name].row.last_loss or 0)) for name in both]
    return _spread(scores) | {"largest_loss_difference": max(losses)}


def _settings(one: Result, other: Result) -> bool:
    """Return whether the settings that both files have are equal."""
    texts = (json.loads(each.row.settings_json) for each in (one, other))
    first, second = ({f"{part}.{k}": v for part in ("train", "options") for k, v in t[part].items()} for t in texts)
    return all(first[name] == second[name] for name in first.keys() & second.keys())


def _reruns(nights: Sequence[Any]) -> dict[str, Any]:
    """Return how far an experiment's successive runs differ, with the same versions and with other ones."""
    runs: dict[str, list[Result]] = {}
    for night in nights:
        for result in night.results:
            runs.setdefault(result.row.cell, []).append(result)
    same: list[float] = []
    other: list[float] = []
    for each in runs.values():
        for old, new in itertools.pairwise([result for result in each if result.scores]):
            versions = [json.loads(one.row.environment_json)["packages"] for one in (old, new)]
            alike = versions[0] == versions[1]
            (same if alike else other).append(100 * (_score(new).score - _score(old).score))
    return {"same_versions": _spread(same), "other_versions": _spread(other)}


def _spread(differences: Sequence[float]) -> dict[str, Any]:
    """Return the spread of a single run that differences between two runs show, in points."""
    return {
        "pairs": len(differences),
        "mean": statistics.fmean(differences),
        "sd_of_a_run": math.sqrt(statistics.fmean(d * d for d in differences) / 2),
        "largest": max(map(abs, differences)),
        "fell": sum(d < 0 for d in differences),
    }


def _table(cells: Mapping[str, Result]) -> dict[str, Any]:
    scores = {name: _score(result) for name, result in cells.items()}
    best = against_best(scores)
    assert best is not None
    ordered = sorted(scores.values(), key=lambda one: -one.score)
    pairs = list(itertools.pairwise(ordered[:TOP]))
    return {
        "cells": len(scores),
        "best": best.best,
        "like_best": list(best.like_best),
        "half_width": 100 * best.half_width,
        "top": TOP,
        "median_gap": 100 * statistics.median(one.score - other.score for one, other in pairs),
        "neighbours_that_differ": _differ(pairs),
    }


def _differ(pairs: Iterable[tuple[Sampled, Sampled]]) -> int:
    """Return how many pairs differ significantly, without any correction for their number."""
    return sum(p_of_difference(one, other) < 0.05 for one, other in pairs)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    files = folder()
    if files is None:
        sys.exit("the peer's result files are not on this machine: set PEFTBENCH_SHARED_DATA")
    crossed_simulation.write(record(files), PATH)
