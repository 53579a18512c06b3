"""Check before a run what a suite asks of a base model's own ``generation_config``. No torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftbench.errors import Unsupported
from peftbench.records import Trial
from peftbench.runner.preflight.speller import Folder
from peftbench.tasks import more_metrics

_DECIDES_NOTHING = ("bos_token_id", "pad_token_id", "transformers_version", "_from_model_config", "use_cache")
"""Entries of the file that every model has, whatever its search."""


def own(folder: Path) -> dict[str, Any]:
    """Return what a model's ``generation_config.json`` asks for; empty if there is none or it cannot be read."""
    try:
        found = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def from_hub(asked: Mapping[str, Any]) -> str | None:
    """Return the search that a configuration asks for if ``transformers`` needs code from the hub for it."""
    beams = asked.get("num_beams") or 1
    if asked.get("constraints") or asked.get("force_words_ids"):
        return "constrained beam search"
    if asked.get("dola_layers"):
        return "DoLa"
    if beams > 1 and (asked.get("num_beam_groups") or 1) > 1:
        return "group beam search"
    contrasts = (asked.get("penalty_alpha") or 0) > 0 and (asked.get("top_k") or 50) > 1
    return "contrastive search" if beams == 1 and not asked.get("do_sample") and contrasts else None


def check(trial: Trial, folder: Path) -> None:
    """Check that a trial can decode as its base model's file asks, if the suite wants that.

    Raises:
        Unsupported: if ``transformers`` cannot.
    """
    search = from_hub(own(folder)) if trial.evaluation.generation == "base" else None
    if search:
        raise Unsupported(
            f"evaluate.generation: base: its generation_config asks for {search}, which transformers can do only with "
            "code from the hub; allowed: greedy"
        )


def notes(trials: Sequence[Trial], folder: Folder) -> tuple[str, ...]:
    """Return with which settings of a base model answers are decoded, and metrics that this machine cannot compute."""
    found: dict[str, None] = {}
    for task in {t.name: t for trial in trials for t in trial.tasks if t.name in trial.evaluate}.values():
        lacking = more_metrics.why_not(task.more_metrics)
        if lacking:
            names = ", ".join(name for name in task.more_metrics if more_metrics.MORE_METRICS[name].captions)
            found[f"task {task.name!r}: {names} will not be computed: not found on this machine: {lacking}"] = None
    for trial in trials:
        where = None if trial.base.random_weights or trial.evaluation.generation != "base" else folder(trial)
        if where:
            asked = {name: value for name, value in own(where).items() if name not in _DECIDES_NOTHING and value}
            shown = ", ".join(f"{name} {json.dumps(value)}" for name, value in asked.items()) or "nothing"
            found[f"answers are decoded as the base's generation_config asks, not greedily: {shown}"] = None
    return tuple(found)
