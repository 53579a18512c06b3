"""Names of runs of lm-eval that tell each from the others of its night."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence

from peftbench.results.imported.lm_eval_run import Run

_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "auto": "unknown"}
_WHERE = ("pretrained", "peft", "delta")
_NAMING = (*_WHERE, "dtype", "load_in_8bit", "load_in_4bit", "parallelize", "device_map")
"""Arguments of a model that are in its name already, in the precision, or change no number."""
_ABSOLUTE = re.compile(r"[/~]|[A-Za-z]:[/\\]")


def cells(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run: its model, what differs from the default, and what tells it from others like it.

    Args:
        runs: of different files.
    """
    names = [_cell(run, 1) for run in runs]
    deepest = max((place.count("/") for run in runs for place in _places(run)), default=0) + 1
    for depth in range(2, deepest + 1):  # models of one name in different folders
        for alike in _alike(names):
            if len({_places(runs[i]) for i in alike}) > 1:
                for i in alike:
                    names[i] = _cell(runs[i], depth)
    tellers: tuple[Callable[[Run], dict[str, str]], ...] = (_settings, _date, _file)
    for facts_of in tellers:
        for alike in _alike(names):
            facts = [facts_of(runs[i]) for i in alike]
            keys = [key for key in facts[0] if all(key in f for f in facts) and len({f[key] for f in facts}) > 1]
            for i, fact in zip(alike, facts, strict=True):
                names[i] = " ".join([names[i], *(f"{key}={fact[key]}" for key in keys)])
    return names


def short(place: str, depth: int = 1) -> str:
    """Return the last parts of a path or of a name on the hub."""
    return "/".join(_slashed(place).split("/")[-depth:]) or place


def base(run: Run) -> str:
    """Return the name of the model that was loaded, without an adapter."""
    given = run.model.get("pretrained") or run.model.get("model") or run.found.get("model_name")
    return str(given or run.found["config"].get("model") or "unknown")


def precision(run: Run) -> str:
    """Return the name of the precision as far as it is known."""
    for name, word in (("load_in_8bit", "int8"), ("load_in_4bit", "4bit")):
        if str(run.model.get(name)).lower() == "true":
            return word
    dtype = str(run.found["config"].get("model_dtype") or run.model.get("dtype") or "unknown").removeprefix("torch.")
    return _PRECISIONS.get(dtype, dtype)


def _slashed(place: str) -> str:
    return place.replace("\\", "/").rstrip("/")


def _places(run: Run) -> tuple[str, ...]:
    return tuple(_slashed(str(run.model.get(name) or "")) for name in _WHERE)


def _cell(run: Run, depth: int) -> str:
    words = [short(base(run), depth)]
    words += [f"+ {short(str(run.model[name]), depth)}" for name in _WHERE[1:] if run.model.get(name)]
    more = {name: str(run.model[name]) for name in sorted(run.model) if name not in _NAMING}
    words += [f"{name}={_without_folders(value)}" for name, value in more.items() if value != base(run)]
    return " ".join([*words, precision(run)])


def _without_folders(value: str) -> str:
    """Return the last part of an absolute path, which is of a machine; any other value unchanged."""
    return short(value) if _ABSOLUTE.match(value) else value


def _alike(names: Sequence[str]) -> list[list[int]]:
    """Return the places of each name that occurs more than once."""
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return [each for each in places.values() if len(each) > 1]


def _settings(run: Run) -> dict[str, str]:
    environment = run.environment
    known = {
        "model": run.found["config"].get("model"),
        **run.how,
        **{f"{task.name}_shots": task.settings["num_fewshot"] for task in run.tasks},
        **environment["packages"],
        "commit": environment["git"]["commit"],
        "sha": environment["model"]["sha"],
    }
    return {key: json.dumps(value, sort_keys=True).strip('"') for key, value in known.items()}


def _date(run: Run) -> dict[str, str]:
    return {"date": run.started.partition("+")[0]}


def _file(run: Run) -> dict[str, str]:
    return {"file": run.digest[:8]}
