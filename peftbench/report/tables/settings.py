"""The page's tables of settings and environment: what all rows share, and where they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from peftbench.methods import METHODS
from peftbench.records import units as fmt
from peftbench.report.collect import Results, method_title, read_json
from peftbench.report.derived.unequal_settings import AXES
from peftbench.report.flat import flat_texts, natural, plain
from peftbench.report.notes import settings as notes
from peftbench.suite.trial_key import LATER, LATER_OPTIONS


@dataclass(frozen=True)
class Audit:
    """What the rows share and where they differ."""

    common: tuple[tuple[str, str], ...]
    """(setting, value) that all rows share, without settings that are null in all rows."""
    methods: tuple[str, ...]
    """Heads of the table of differences."""
    differing: tuple[tuple[str, tuple[str, ...]], ...]
    """(setting, one entry per method): settings that are not an axis and are not the same in all rows."""
    notes: tuple[str, ...]


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
            common += [(name, value) for value in values if value != "none"]
        elif name != "train":  # the untuned base has no training at all
            differing.append((name, tuple(", ".join(sorted(each, key=natural)) or "–" for each in held.values())))
    titles = tuple(method_title(method) for method in per_method)
    return Audit(tuple(common), titles, tuple(differing), tuple(notes.notes(results)))


def _per_method(results: Results) -> dict[str, dict[str, set[str]]]:
    """Return each method's settings with all their values in its rows."""
    per_method: dict[str, dict[str, set[str]]] = {}
    every = [
        (cell.method, flat_texts(read_json(text)))
        for cell in results.cells
        for text in cell.texts("settings_json", ok=False)
    ]
    later = {f"train.{name}": plain(value) for name, value in LATER.items()}
    later = {name: value for name, value in later.items() if any(name in settings for _, settings in every)}
    for method, settings in every:
        found = per_method.setdefault(method, {})
        trained = any(name.startswith("train.") for name in settings)
        for name, value in {**(later if trained else {}), **_later_options(method, every), **settings}.items():
            if name not in AXES:
                found.setdefault(name, set()).add(_shown(method, name, value))
    return per_method


def _later_options(method: str, every: Iterable[tuple[str, Mapping[str, str]]]) -> dict[str, str]:
    """Return the defaults of the options that only some trials of a method have, since they were added later."""
    found = {f"options.{name}": plain(value) for name, value in LATER_OPTIONS.items()}
    return {n: value for n, value in found.items() if any(one == method and n in settings for one, settings in every)}


def _shown(method: str, name: str, value: str) -> str:
    """Return the value; for an option whose default null stands for a value, that value."""
    record, option = METHODS.get(method), name.removeprefix("options.")
    if value != "none" or record is None or name == option or option not in record.options:
        return value
    setting = record.options[option]
    return setting.meaning or value


@dataclass(frozen=True)
class Environment:
    """Where the trials ran."""

    common: tuple[tuple[str, str], ...]
    packages: tuple[tuple[str, str], ...]
    differing: tuple[tuple[str, str], ...]
    """(name, all values): not the same for all trials."""


def environment(results: Results) -> Environment:
    """Return the machine and packages that all trials share, and what differs."""
    seen: dict[str, dict[str, None]] = {}
    texts = results.trials["environment_json"].dropna().unique()
    for text in texts:
        for name, value in flat_texts({k: v for k, v in read_json(text).items() if k != "command"}).items():
            words = fmt.memory(int(value)) if name.endswith("_bytes") and value.isdigit() else value
            title = name if name.startswith("packages.") else name.removesuffix("_bytes").replace("_", " ")
            seen.setdefault(title, {})[words] = None
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
