"""The sections of the page in their order: what each is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from peftbench.records import Status
from peftbench.records.units import MISSING
from peftbench.report.collect import Results
from peftbench.report.figures import panels
from peftbench.report.guarded import guarded
from peftbench.report.notes import definitions, learning_rate_search, memory, rank_tables, speed
from peftbench.report.tables import (
    comparison,
    inference,
    rank_by_precision,
    rates,
    retention,
    samples,
    settings,
    task_metrics,
)
from peftbench.report.tables import learning_rate_search as search

Part = Callable[[Results], Any]


@dataclass(frozen=True)
class Section:
    """A section of the page; its template is ``templates/sections/ID.html.j2``."""

    id: str
    link: str
    """Its name in the list at the top of the page."""
    heading: str
    parts: Mapping[str, Part]
    """By the name in the template, what makes it from the results."""
    optional: bool = False
    """Whether it is left out if its first part is nothing."""


@dataclass(frozen=True)
class MadeSection:
    """A section as HTML."""

    id: str
    link: str
    heading: str
    body: Markup


def failures(results: Results) -> list[dict[str, str]]:
    """Return the failures of every cell: status, phase, seeds and message."""
    found = []
    for cell in results.cells:
        bad = cell.trials[cell.trials["status"] != Status.OK.value]
        columns = ["status", "phase", "message"]
        texts = bad[columns].astype(object).fillna(MISSING)
        for (status, phase, message), rows in texts.groupby(columns, sort=True):
            seeds = [str(seed) for seed in bad.loc[rows.index, "seed"].dropna()]
            found.append(
                {
                    "cell": cell.name,
                    "status": str(status),
                    "phase": str(phase),
                    "seeds": ", ".join(seeds) or MISSING,
                    "message": str(message),
                }
            )
    return found


def _exists(table: Part) -> Part:
    """Return whether another section has something to show; one that cannot be made shows why."""
    return lambda results: guarded("", lambda: bool(table(results)), lambda _: True)


def _losses(results: Results) -> dict[str, Any]:
    shown, window = panels.loss_panels(results)
    return {"panels": shown, "window": window}


_THINNED: Mapping[str, Part] = {"thinned": panels.is_thinned}
SECTIONS = (
    Section("comparison", "Comparison", "Comparison", {"table": comparison.table}),
    Section(
        "ranks",
        "Rank × precision",
        "Rank × precision",
        {
            "ranks_heading": rank_by_precision.heading,
            "rank_meaning": lambda _: rank_tables.MEANING,
            "rank_tables": rank_by_precision.rank_tables,
        },
    ),
    Section(
        "parameters",
        "Score and parameters",
        "Score against trainable parameters",
        {
            **_THINNED,
            "marker_keys": panels.marker_keys,
            "by_parameters": lambda results: panels.score_panels(results, "trainable_parameters"),
        },
    ),
    Section(
        "memory-scores",
        "Score and memory",
        "Score against peak train memory",
        {
            "marker_keys": panels.marker_keys,
            "by_memory": lambda results: panels.score_panels(results, "peak_train_bytes"),
        },
    ),
    Section(
        "memory",
        "Memory",
        "Memory at the training peak",
        {**_THINNED, "memory_sentences": memory.sentences, "memory": panels.memory_bars},
    ),
    Section("loss", "Loss", "Training loss", {**_THINNED, "losses": _losses}),
    Section(
        "time",
        "Time",
        "Time by phase",
        {
            **_THINNED,
            "time": panels.time_bars,
            "has_retention": _exists(retention.table),
            "has_inference": _exists(inference.table),
            "rates": rates.rates,
            "rates_meaning": lambda _: speed.RATES,
        },
    ),
    Section("retention", "Retention", "Retention of general text", {"retention": retention.table}, optional=True),
    Section(
        "search",
        "Learning rates",
        "Learning-rate search",
        {
            "search": search.table,
            "search_panels": search.panels,
            "marker_keys": panels.marker_keys,
            "expected_best": lambda _: learning_rate_search.EXPECTED_BEST,
        },
        optional=True,
    ),
    Section("inference", "Inference", "Inference cost", {"inference": inference.table}, optional=True),
    Section(
        "samples",
        "Samples",
        "Samples",
        {**_THINNED, "task_metrics": task_metrics.task_metrics, "samples": samples.task_samples},
    ),
    Section("failures", "Failures", "Failed and unsupported cells", {"troubles": failures}),
    Section("settings", "Settings", "Settings", {"audit": settings.audit}),
    Section("environment", "Environment", "Environment", {"environment": settings.environment}),
    Section("definitions", "Definitions", "Definitions", {"definitions": definitions.definitions}),
)
"""In the order of the page."""
