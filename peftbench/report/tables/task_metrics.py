"""All metrics of each task: the headline metric, metrics of whole sets, and shares of unreadable answers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from peftbench.report.collect import Cell, Results, read_json
from peftbench.report.notes.scores import metric_words

_FRACTIONS = (
    *("accuracy", "accuracy_norm", "exact_match", "rouge_l", "bleu", "chrf", "slots_right", "probability_per_byte"),
    *("bleu_lowercase", "rouge_l_coco", "meteor"),
    *("f1_macro", "wrong answers", "unreadable answers", "acc", "acc_norm", "acc_bytes", "acc_mutual_info", "f1"),
)
"""Metrics that are shown in %."""
_PERCENTS = ("bleu", "chrf")
"""Metrics that lm-eval itself returns in %."""


@dataclass(frozen=True)
class TaskMetrics:
    """The metrics of one task: a line per finished cell."""

    task: str
    names: tuple[str, ...]
    """In words."""
    fractions: tuple[bool, ...]
    """Which of them are fractions of 1, shown in %."""
    lines: tuple[tuple[str, tuple[float | None, ...]], ...]
    """(cell, one mean over seeds per metric)."""


def task_metrics(results: Results) -> tuple[TaskMetrics, ...]:
    """Return the metrics of each task that has more than its headline metric."""
    found = (_of(results, task) for task in results.tasks)
    return tuple(one for one in found if len(one.names) > 1)


def _of(results: Results, task: str) -> TaskMetrics:
    cells = [(cell, list(_columns(cell, task))) for cell in results.finished]
    names = list(dict.fromkeys(name for _, seeds in cells for seed in seeds for name in seed))
    means = [{name: _mean(seed.get(name) for seed in seeds) for name in names} for _, seeds in cells]
    fractions = tuple(name.partition(",")[0] in _FRACTIONS for name in names)
    lines = tuple((cell.name, tuple(mean.values())) for (cell, _), mean in zip(cells, means, strict=True))
    return TaskMetrics(task, tuple(metric_words(name) for name in names), fractions, lines)


def _columns(cell: Cell, task: str) -> Iterable[dict[str, float]]:
    """Yield the numbers of each finished seed: headline metric, others, shares of wrong and unreadable answers."""
    for row in cell.ok_rows:
        score: dict[str, Any] = read_json(row["scores_json"]).get(task) or {}
        if not score:
            continue
        metric, value = score["metric"], score["value"]
        theirs = _PERCENTS if score.get("settings", {}).get("lm_eval") else ()
        each = {name: v / 100 if name.partition(",")[0] in theirs else v for name, v in score["metrics"].items()}
        found = {metric: value, **each}
        failures = score.get("format_failures")
        if failures is not None and score["examples"]:
            unread = failures / score["examples"]
            if metric.partition(",")[0] == "exact_match":
                found["wrong answers"] = max(0.0, 1 - value - unread)
            found["unreadable answers"] = unread
        yield found


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None
