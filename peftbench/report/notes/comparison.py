"""All notes under the comparison table, the most important first."""

from __future__ import annotations

from collections.abc import Iterable

from peftbench.report.collect import Results
from peftbench.report.derived.significance import Significance
from peftbench.report.notes import (
    answers,
    data_read,
    data_use,
    defaults,
    failures,
    learning_rate_search,
    memory,
    methods,
    outcomes,
    ranking,
    scores,
    significance,
    speed,
    unequal_settings,
)


def notes(results: Results, found: Significance) -> tuple[str, ...]:
    """Return what the numbers are, what they can show, what limits the comparison, then memory, speed and data."""
    groups: tuple[Iterable[str | None], ...] = (
        (scores.seeds(results), scores.metrics(results)),
        ranking.notes(results),
        significance.notes(found),
        failures.missing(results),
        failures.failed(results),
        outcomes.unlearned(results),
        outcomes.below_base(results),
        answers.notes(results),
        unequal_settings.notes(results),
        speed.cautions(results),
        methods.not_causal(results),
        methods.left_out(results),
        methods.adapted_share(results),
        learning_rate_search.notes(results),
        defaults.notes(results),
        methods.matched_parameters(results),
        methods.profile_settings(results),
        memory.notes(results),
        speed.notes(results),
        data_read.notes(results.trials),
        data_use.sentences(results.trials),
        failures.unsupported(results),
    )
    return tuple(note for group in groups for note in group if note)
