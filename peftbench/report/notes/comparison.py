"""All notes under the comparison table, the most important first."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from peftbench.report.collect import Results
from peftbench.report.derived import smoke
from peftbench.report.derived.answer import nearness
from peftbench.report.derived.significance import Significance
from peftbench.report.guarded import guarded
from peftbench.report.notes import (
    answers,
    best_rates,
    data_read,
    data_use,
    defaults,
    deployed,
    failures,
    heads,
    learning_rate_search,
    memory,
    methods,
    outcomes,
    ranking,
    scores,
    significance,
    speed,
    unequal_settings,
    unpaired,
)


def notes(results: Results, found: Significance) -> tuple[str, ...]:
    """Return what the numbers are, what they can show, what limits the comparison, then memory, speed and data."""
    groups: tuple[tuple[str, Callable[[], Iterable[str | None]]], ...] = (
        ("smoke mode", lambda: smoke.notes(results)),
        ("seeds", lambda: (scores.seeds(results),)),
        ("metrics", lambda: (scores.metrics(results),)),
        ("ranking", lambda: ranking.notes(results)),
        ("significance", lambda: significance.notes(found, nearness(results))),
        ("standard errors", lambda: unpaired.notes(results)),
        ("missing trials", lambda: failures.missing(results)),
        ("failed trials", lambda: failures.failed(results)),
        ("losses that did not fall", lambda: outcomes.unlearned(results)),
        ("scores below the untuned base model", lambda: outcomes.below_base(results)),
        ("scores after deployment", lambda: deployed.falls(results)),
        ("answers", lambda: answers.notes(results)),
        ("unequal settings", lambda: unequal_settings.notes(results)),
        ("disturbed times", lambda: speed.cautions(results)),
        ("causality", lambda: methods.not_causal(results)),
        ("the head", lambda: heads.notes(results)),
        ("parts that text does not pass through", lambda: methods.left_out(results)),
        ("adapted share", lambda: methods.adapted_share(results)),
        ("the learning-rate search", lambda: learning_rate_search.notes(results)),
        ("best learning rates", lambda: best_rates.notes(results)),
        ("defaults", lambda: defaults.notes(results)),
        ("matched parameters", lambda: methods.matched_parameters(results)),
        ("profiles", lambda: methods.profile_settings(results)),
        ("memory", lambda: memory.notes(results)),
        ("speed", lambda: speed.notes(results)),
        ("files", lambda: data_read.notes(results.trials)),
        ("use of data", lambda: data_use.sentences(results.trials)),
        ("unsupported cells", lambda: failures.unsupported(results)),
    )
    made = (guarded(f"notes on {what}", lambda m=make: tuple(m()), _alone) for what, make in groups)  # type: ignore[misc]
    return tuple(note for group in made for note in group if note)


def _alone(note: str) -> tuple[str | None, ...]:
    return (note,)
