"""The fairness audit: which settings and surroundings the rows share, and every one in which they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from peftbench.report import format as fmt
from peftbench.report.collect import Cell, Results, method_of, method_title, read_json

_AXES = ("method", "precision", "rank", "seed", "cell")
"""Settings that the table's rows differ in on purpose; the cells' names say them."""
_IDENTITIES = {
    "base_sha256": "base model",
    "data_sha256": "tasks' examples",
    "threads": "threads",
    "workers": "workers",
}
"""Columns of which every trial should hold the same value, in words."""


@dataclass(frozen=True)
class Audit:
    """What the rows share and where they differ."""

    common: tuple[tuple[str, str], ...]
    """(setting, value) that all rows share."""
    methods: tuple[str, ...]
    """Heads of the table of differences."""
    differing: tuple[tuple[str, tuple[str, ...]], ...]
    """(setting, one entry per method): settings that are not an axis and are not the same in all rows."""
    findings: tuple[str, ...]
    """Sentences about inputs: same batches, same data, same base, or not."""


def audit(results: Results) -> Audit:
    """Compare the effective settings of all rows."""
    per_method = _per_method(results)
    untuned = {cell.method for cell in results.cells if cell.is_base}
    names = list(dict.fromkeys(name for found in per_method.values() for name in found))
    common, differing = [], []
    for name in names:
        held = {method: found.get(name, set()) for method, found in per_method.items()}
        values = set().union(*held.values())
        absent = any(not each for method, each in held.items() if method not in untuned)
        if len(values) == 1 and not absent:
            common.append((name, next(iter(values))))
        elif name != "train":  # the untuned base has no training at all
            differing.append((name, tuple(", ".join(sorted(each, key=_natural)) or "–" for each in held.values())))
    titles = tuple(method_title(method) for method in per_method)
    return Audit(tuple(common), titles, tuple(differing), tuple(_findings(results)))


def _per_method(results: Results) -> dict[str, dict[str, set[str]]]:
    """Return each method's settings with all values that they have in its rows."""
    per_method: dict[str, dict[str, set[str]]] = {}
    for cell in results.cells:
        found = per_method.setdefault(cell.method, {})
        for settings in cell.trials["settings_json"].dropna().unique():
            for name, value in flatten(read_json(settings)).items():
                if name not in _AXES:
                    found.setdefault(name, set()).add(_shown(cell.method, name, value))
    return per_method


def _shown(method: str, name: str, value: str) -> str:
    """Return what stands for an option that is none by default and follows from something else."""
    record, option = method_of(method), name.removeprefix("options.")
    if value != "none" or record is None or name == option or option not in record.options:
        return value
    setting = record.options[option]
    return setting.shown or value if setting.default is None else value


def differing_inputs(results: Results) -> tuple[str, ...]:
    """Return sentences about inputs that finished rows do not share: batches, examples, base, threads, workers."""
    ok = results.trials[results.trials["status"] == "ok"]
    found = []
    kinds = ok[ok["batches_sha256"].notna()].groupby("seed")["batches_sha256"].nunique()
    odd = [str(seed) for seed, n in kinds.items() if n > 1]
    if odd:
        found.append(f"Methods did not all see the same batches in the same order for seed {', '.join(odd)}.")
    for column, words in _IDENTITIES.items():
        values = ok[column].dropna().unique().tolist()
        if len(values) > 1:
            shown = ", ".join(str(value)[:12] for value in sorted(values))
            found.append(f"The {words} of the rows differ: {shown}.")
    return tuple(found)


def differing_training(results: Results) -> tuple[str, ...]:
    """Say which training settings methods do not share, the learning rate and a recipe's own optimizer left out."""
    tuned = {cell.method for cell in results.cells if not cell.is_base}
    per_method = {method: found for method, found in _per_method(results).items() if method in tuned}
    told = []
    for name in dict.fromkeys(name for found in per_method.values() for name in found if name.startswith("train.")):
        short = name.removeprefix("train.")
        values: dict[str, list[str]] = {}
        for method, found in per_method.items():
            held = ", ".join(sorted(found.get(name, set()), key=_natural)) or "none"
            if short != "learning_rate" and not _of_recipe(method, short, held):
                values.setdefault(held, []).append(method_title(method))
        if len(values) > 1:
            told.append(f"{short} " + "; ".join(f"{held} ({', '.join(who)})" for held, who in values.items()))
    return (f"Training differs between methods, not only in the learning rate: {'. '.join(told)}.",) if told else ()


def _of_recipe(method: str, name: str, held: str) -> bool:
    """Whether this is the optimizer that a method's recipe names."""
    record = method_of(method)
    return name == "optimizer" and record is not None and record.training.get("optimizer") == held


def _findings(results: Results) -> Iterable[str]:
    ok = results.trials[results.trials["status"] == "ok"]
    different = differing_inputs(results)
    alike = all(len(results.distinct(name)) < 2 for name in ("base_sha256", "data_sha256"))
    if ok["batches_sha256"].notna().any() and alike and not any("batches" in text for text in different):
        yield "For each seed, every method saw the same examples in the same batches and order."
    yield from different
    for cell in results.finished:
        yield from _liveness(cell)


def _liveness(cell: Cell) -> Iterable[str]:
    """Say which trainable tensors training never changed."""
    names = sorted({str(name) for name in cell.ok["stalled_tensors"] if not pd.isna(name) and name})
    if names:
        yield f"{cell.name}: tensors that training did not change: {'; '.join(names)}."


def flatten(nested: Any, prefix: str = "") -> dict[str, str]:
    """Return nested settings as dotted names and plain texts; records in a list go by their name."""
    if isinstance(nested, Mapping):
        return {k: v for key, value in nested.items() for k, v in flatten(value, f"{prefix}{key}.").items()}
    if isinstance(nested, list) and any(isinstance(item, Mapping) for item in nested):
        return flatten(dict(_named(item, place) for place, item in enumerate(nested)), prefix)
    return {prefix.removesuffix("."): _plain(nested)}


def _named(item: Any, place: int) -> tuple[str, Any]:
    """Return what a record in a list goes by (its name, else its place) and the rest of it."""
    if isinstance(item, Mapping) and "name" in item:
        return str(item["name"]), {key: value for key, value in item.items() if key != "name"}
    return str(place), item


def _plain(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        parts = (" ".join(map(_plain, item)) if isinstance(item, list) else _plain(item) for item in value)
        return ", ".join(parts) or "none"
    return str(value)


def _natural(text: str) -> tuple[int, float, str]:
    """Sort numbers by size, before words."""
    try:
        return (0, float(text), text)
    except ValueError:
        return (1, 0.0, text)


@dataclass(frozen=True)
class Environment:
    """Where the trials ran."""

    common: tuple[tuple[str, str], ...]
    packages: tuple[tuple[str, str], ...]
    differing: tuple[tuple[str, str], ...]
    """(name, all values): not the same for all trials."""


def environment(results: Results) -> Environment:
    """Return what the trials' machines and packages have in common, and what not."""
    seen: dict[str, dict[str, None]] = {}
    texts = results.trials["environment_json"].dropna().unique()
    for text in texts:
        for name, value in flatten({k: v for k, v in read_json(text).items() if k != "command"}).items():
            words = fmt.memory(int(value)) if name.endswith("_bytes") and value.isdigit() else value
            told = name if name.startswith("packages.") else name.removesuffix("_bytes").replace("_", " ")
            seen.setdefault(told, {})[words] = None
    load = results.trials["load_average"].dropna()
    if len(load):
        seen["load average as trials began"] = {f"{load.min():.1f} to {load.max():.1f}": None}
    for name, column, pick in (("first trial began", "started_at", min), ("last trial ended", "finished_at", max)):
        times = results.trials[column].dropna().tolist()
        if times:
            seen[name] = {pick(times): None}
    one = [(name, next(iter(values))) for name, values in seen.items() if len(values) == 1]
    packages = sorted((name.removeprefix("packages."), v) for name, v in one if name.startswith("packages."))
    rest = tuple((name, value) for name, value in one if not name.startswith("packages."))
    differing = tuple((name, ", ".join(values)) for name, values in seen.items() if len(values) > 1)
    return Environment(rest, tuple(packages), differing)
