"""Everything that the page's scripts read, as one core and parts that are read when they are needed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from peftbench.report import styles
from peftbench.report.collect import Cell, Results, method_title
from peftbench.report.derived import anatomy
from peftbench.report.derived.significance import significance
from peftbench.report.names import display_names
from peftbench.report.not_run import not_run
from peftbench.report.payload import anatomy as anatomies
from peftbench.report.payload import details, questions
from peftbench.report.payload.attempt import Pieces
from peftbench.report.payload.columns import columns
from peftbench.report.payload.overview import overview_of
from peftbench.report.payload.packing import packed
from peftbench.report.payload.scores import scores
from peftbench.version import __version__

TRIALS_TOGETHER = 50
"""Trials of which one part has the curves or the ledgers."""
_TRIAL_COLUMNS = ("phase", "log_file", "train_seconds", "peak_train_bytes", "finished_at")


@dataclass(frozen=True)
class Payload:
    """The page's data as JSON texts that can stand inside a page."""

    core: str
    parts: dict[str, str]
    """By name, what is read when a trial or a section is opened."""


def payload(results: Results) -> Payload:
    """Return the page's data: the same texts for the same results."""
    pieces = Pieces()
    reading = pieces.make("the anatomy of the base", lambda: anatomy.start(results), None)
    try:
        return _payload(results, pieces, reading)
    except BaseException:
        if reading is not None:
            reading.stop()
        raise


def _payload(results: Results, pieces: Pieces, reading: anatomy.Started | None) -> Payload:
    parts: dict[str, Any] = {}
    nothing: list[Any] = [None] * len(results.trials)
    each = (("curves", "training losses", details.curves), ("ledgers", "memory ledgers", details.ledgers))
    for name, what, make in each:
        values = pieces.make(f"the {what}", lambda m=make: m(results), nothing)  # type: ignore[misc]
        for place, piece in enumerate(details.split(values, TRIALS_TOGETHER)):
            parts[f"{name}-{place}"] = piece
    absent = {"names": [], "values": [], "sets": [[]], "of": [0] * len(results.trials)}
    parts["settings"] = pieces.make("the settings of trials", lambda: details.settings(results), absent)
    parts["environments"] = pieces.make("the environments of trials", lambda: details.environments(results), absent)
    parts["samples"] = pieces.make("the samples", lambda: details.samples(results), [])
    known = significance(results)
    core: dict[str, Any] = {
        "version": __version__,
        "together": TRIALS_TOGETHER,
        "cells": _cells(results.cells),
        "not_run": _not_run(results),
        "styles": {kind: asdict(styles.style_of(kind)) for kind in dict.fromkeys(cell.kind for cell in results.cells)},
        "palette": {"light": styles.LIGHT, "dark": styles.DARK},
        "columns": [_column(column) for column in columns(results, known, pieces)],
        "scores": scores(results, known, pieces),
        "costs": pieces.make("what cells cost", lambda: questions.costs(results), None),
        "trials": _trials(results),
        "memory": details.memory_parts(),
        "time": details.time_parts(),
        **overview_of(results, pieces),
        "anatomy": [],
    }
    if reading is not None:
        core["anatomy"] = pieces.make("the anatomy of the base", lambda: anatomies.shown(reading.finish()), [])
    core["warnings"] = [*pieces.notes, *core["warnings"]]
    return Payload(packed(core), {name: packed(value) for name, value in parts.items()})


def _column(column: Any) -> dict[str, Any]:
    """Return a column without what is at its default; repeated texts are written once."""
    made = {name: value for name, value in asdict(column).items() if value not in ("", 1.0)}
    if column.kind == "text":
        texts = list(dict.fromkeys(column.values))
        made |= {"texts": texts, "values": [texts.index(value) for value in column.values]}
    return made


def _cells(cells: tuple[Cell, ...]) -> dict[str, list[Any]]:
    shown = display_names(cells)
    return {
        "name": [shown[cell.name] for cell in cells],
        "own": [cell.name for cell in cells],
        "cell": [cell.summary.cell for cell in cells],
        "method": [cell.method for cell in cells],
        "kind": [cell.kind for cell in cells],
        "title": [cell.title for cell in cells],
        "rank": [cell.rank for cell in cells],
        "rank_meaning": [(cell.record.rank_meaning if cell.record else "rank") or "" for cell in cells],
        "precision": [cell.precision for cell in cells],
        "variant": [cell.variant for cell in cells],
        "base": [cell.summary.base for cell in cells],
        "bits": [cell.mean("base_bits_per_weight") for cell in cells],
        "is_base": [cell.is_base for cell in cells],
        "ok": [len(cell.ok) for cell in cells],
        "trouble": [cell.trouble for cell in cells],
    }


def _not_run(results: Results) -> dict[str, list[Any]]:
    """Return the cells without any result: their names, and by the table's columns what is known of them."""
    cells = not_run(results).values()
    return {
        "name": [cell.title for cell in cells],
        "method": [method_title(cell.method) for cell in cells],
        "rank": [cell.rank for cell in cells],
        "precision": [cell.precision for cell in cells],
        "base": [cell.base for cell in cells],
        "trials": [cell.state for cell in cells],
        "trouble": [f"0/{cell.trials} not run" for cell in cells],
    }


def _trials(results: Results) -> dict[str, list[Any]]:
    """Return the trials as columns, in the order in which curves and settings have them."""
    frame = results.trials
    places = {(cell.summary.base, cell.summary.cell): place for place, cell in enumerate(results.cells)}
    messages = frame["message"].astype(object).where(frame["message"].notna(), None).tolist()
    texts = list(dict.fromkeys(messages))
    at = {text: place for place, text in enumerate(texts)}
    found = {
        "key": frame["key"].tolist(),
        "cell": [places[str(b), str(c)] for b, c in zip(frame["base"], frame["cell"], strict=True)],
        "seed": frame["seed"].astype(object).tolist(),
        "status": frame["status"].tolist(),
        "message": [at[message] for message in messages],
        "messages": texts,
        **{name: frame[name].astype(object).tolist() for name in _TRIAL_COLUMNS if name in frame},
    }
    for place, task in enumerate(results.tasks):
        found[f"score_{place}"] = frame[f"score_{task}"].astype(object).tolist()
    return found
