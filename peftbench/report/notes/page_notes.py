"""The page's warnings, and its other notes by subject."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from peftbench.report.collect import Results
from peftbench.report.derived import smoke
from peftbench.report.derived.inference import measured
from peftbench.report.derived.retention import retained
from peftbench.report.derived.significance import significance
from peftbench.report.guarded import guarded
from peftbench.report.notes import (
    answers,
    best_rates,
    data_read,
    data_use,
    defaults,
    failures,
    inference,
    learning_rate_search,
    memory,
    methods,
    outcomes,
    ranking,
    retention,
    scores,
    speed,
    unequal_settings,
    unpaired,
)
from peftbench.report.notes import significance as significant

_Maker = Callable[[], Iterable[str | None]]


def warnings(results: Results) -> tuple[str, ...]:
    """Return what limits or voids the comparison, the most important first; failed trials are a table of their own."""
    groups: tuple[tuple[str, _Maker], ...] = (
        ("smoke mode", lambda: smoke.notes(results)),
        ("missing trials", lambda: failures.missing(results)),
        ("disturbed times", lambda: speed.cautions(results)),
        ("losses that did not fall", lambda: outcomes.unlearned(results)),
        ("scores below the untuned base model", lambda: outcomes.below_base(results)),
        ("answers", lambda: answers.notes(results)),
        ("unequal settings", lambda: unequal_settings.notes(results)),
        ("causality", lambda: methods.not_causal(results)),
    )
    return tuple(text for what, make in groups for text in _made(what, make))


def notes(results: Results) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the other notes: a heading and its sentences, without headings that have none."""
    groups: tuple[tuple[str, _Maker], ...] = (
        ("Scores", lambda: (scores.metrics(results), *ranking.notes(results))),
        ("Significance", lambda: (*significant.page_notes(significance(results)), *unpaired.notes(results))),
        ("Methods", lambda: (*methods.left_out(results), *methods.adapted_share(results))),
        (
            "Learning rates and defaults",
            lambda: (
                *learning_rate_search.notes(results),
                *best_rates.notes(results),
                *defaults.notes(results),
            ),
        ),
        (
            "Equal sizes and profiles",
            lambda: (*methods.matched_parameters(results), *methods.profile_settings(results)),
        ),
        ("Memory", lambda: memory.sentences(results)),
        ("Speed", lambda: speed.notes(results)),
        ("Forgetting", lambda: retention.notes(kept) if (kept := retained(results)) else ()),
        ("Inference", lambda: inference.notes(results, cells) if (cells := measured(results)) else ()),
        ("Data", lambda: (*data_read.notes(results.trials), *data_use.sentences(results.trials))),
    )
    for title, make in groups:
        found = _made(title.lower(), make)
        if found:
            yield title, found


def _made(what: str, make: _Maker) -> tuple[str, ...]:
    """Return a group of notes; if it fails, a note that says so."""
    return guarded(f"notes on {what}", lambda: tuple(text for text in make() if text), lambda note: (note,))
