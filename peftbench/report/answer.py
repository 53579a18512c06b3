"""The answer as text for a terminal, and as a record for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from peftbench.report.collect import Results
from peftbench.report.derived.answer import Costs, answer
from peftbench.report.guarded import guarded
from peftbench.report.notes import unpaired, voids
from peftbench.report.notes.answer import WIDTH, lines
from peftbench.results.answer.decision import Question
from peftbench.results.rows import is_number


def text(results: Results, question: Question) -> str:
    """Return the answer to a question as lines of at most 100 columns, after warnings that make scores void.

    Raises:
        UserError: if the question does not fit the results.
    """
    said = (*voids.at_the_floor(results), *lines(answer(results, question)), *_by_errors(results))
    return "".join(f"{line}\n" for line in said)


def guarded_lines(results: Results) -> tuple[str, ...]:
    """Return the answer to the usual question as lines, to stand beside a table, which has the warnings.

    If it cannot be computed, a line says so.
    """
    return guarded("the answer", lambda: (*lines(answer(results)), *_by_errors(results)), lambda note: (note,))


def _by_errors(results: Results) -> tuple[str, ...]:
    """Return what standard errors tell where outcomes are not stored, as lines."""
    return tuple(line for note in unpaired.notes(results) for line in textwrap.wrap(note, WIDTH))


def record(results: Results, question: Question) -> dict[str, Any]:
    """Return the answer to a question as JSON values.

    Every number has its unit in its name, what is not known is None.

    Raises:
        UserError: if the question does not fit the results.
    """
    found = answer(results, question)
    decision, question, below = found.decision, found.decision.question, found.decision.fits_below_best
    needed, losses = decision.needed, decision.losses
    good = set(decision.good)
    return {
        "status": decision.status.replace(" ", "_"),
        "refusal": decision.refusal,
        "task": found.task,
        "within_points": question.within,
        "budget_bytes": question.budget_bytes,
        "time_budget_seconds": question.time_seconds,
        "cell_by_memory": decision.by_memory,
        "cell_by_time": decision.by_time,
        "good_enough_cells": list(decision.good),
        "best_cell": decision.best,
        "least_probability_fraction": losses.level(question.within / 100) if losses else None,
        "best_cell_within_budget": decision.fits,
        "loss_within_budget_points": None if below is None else -100 * below.value,
        "loss_within_budget_low_points": None if below is None else -100 * below.high,
        "loss_within_budget_high_points": None if below is None else -100 * below.low,
        "base_is_within": decision.base_within,
        "seeds_now_count": needed.seeds_now if needed else found.seeds or None,
        "seeds_needed_count": needed.seeds if needed else None,
        "examples_now_count": needed.examples_now if needed else None,
        "examples_needed_count": needed.examples if needed else None,
        "command": found.command,
        "shown_cell": decision.shown,
        "shown_within_points": decision.shown_within,
        "busy_trials_count": found.busy.count if found.busy else 0,
        "not_judged": dict(decision.left_out),
        "unfinished_cells": list(found.unfinished),
        "not_run_cells": [name for name, how in found.unfinished.items() if not how],
        "trials_count": found.asked or None,
        "missing_trials_count": found.missing,
        "cells": [
            {"cell": name, "good_enough": name in good, **_cell(cost, decision.probabilities.get(name))}
            for name, cost in found.costs.items()
        ],
        "warnings": list(voids.at_the_floor(results)),
        "lines": list(lines(found)),
    }


def _cell(cost: Costs, probability: float | None) -> Mapping[str, Any]:
    change, decode = cost.forgetting, cost.decode
    return {
        "score_points": _known(None if cost.score is None else 100 * cost.score),
        "probability_within_fraction": probability,
        "peak_train_bytes": _known(cost.peak_train_bytes),
        "train_seconds": _known(cost.train_seconds),
        "checkpoint_bytes": _known(cost.checkpoint_bytes),
        "forgetting_nats_per_token": _known(None if change is None else change.value),
        "forgetting_low_nats_per_token": _known(None if change is None else change.low),
        "forgetting_high_nats_per_token": _known(None if change is None else change.high),
        "decode_times_base_ratio": _known(None if decode is None else decode.mean),
        "merge": cost.merge,
    }


def _known(value: float | None) -> float | None:
    return value if is_number(value) else None
